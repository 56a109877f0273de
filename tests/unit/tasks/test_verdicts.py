"""Early verdicts and drafts: they may change the speed of a search, so nothing here may ever change a score."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.tasks.base import Sample
from layercut.tasks.few_shot import FewShotTask
from layercut.tasks.grading import (
    all_numbers,
    can_be_number,
    first_line,
    number_after,
    number_after_stands,
    parse_number,
)
from tests.support.answers import completion
from tests.unit.tasks.test_few_shot import BUILTIN, GENERATED, built_in

SHORT = ("arithmetic", "brackets", "copy")
SPACES = (" ", "  ", "\t", "\r", "\x1c", "\u00a0", "\u2003", "\u2028")
PIECES = {
    "arithmetic": [*"0123456789", *",,..+-−", *SPACES, "\n", "%", "$", "٣", "é", "000", ",000", ".0"],
    "brackets": [*"()[]{}", *"()[]{}", *SPACES, ".", "\n", "a", "é"],
    "copy": [*SPACES, ".", ",", "\n", "e", "s", "é", "river", "stone", "apple", "Apple"],
    "in steps": [
        *("The answer is", "the answer is", "The anſwer is", " The answer is ", "answer", "So "),
        *("0123456789" + ",,..+-−:*$£€%="),
        *SPACES,
        *("\n", "é", "000", ",000", ".0", " dollars"),
    ],
}
NUM_SAMPLES = 12
IN_STEPS = tuple(name for name, readout in GENERATED.items() if readout == "chain")


def pieces(name: str) -> list[str]:
    return PIECES["in steps" if GENERATED[name] == "chain" else name]


def metrics(task: FewShotTask, sample: Sample, text: str) -> dict[str, float]:
    return task.grade(sample, GENERATED[task.name], completion(text)).metrics  # type: ignore[arg-type]


def settled(task: FewShotTask, sample: Sample, text: str) -> bool:
    return task.settled(sample, GENERATED[task.name], text)  # type: ignore[arg-type]


def decoded(data: bytes) -> str:
    """As a tokenizer does it: a character whose bytes have not all come is U+FFFD."""
    return data.decode("utf-8", "replace")


def random_text(task: FewShotTask, rng: Random, longest: int) -> str:
    return "".join(rng.choice(pieces(task.name)) for _ in range(rng.randint(0, longest)))


def spell_number(gold: str, rng: Random) -> str:
    """One of the ways to write a whole number that count as right in arithmetic."""
    digits = "0" * rng.choice((0, 0, 1, 2, 5)) + gold
    if rng.random() < 0.4:
        digits = f"{int(gold):0{rng.choice((4, 6, 7))},}" if rng.random() < 0.5 else f"{int(gold):,}"
    sign = rng.choice(("", "", "+", *(("-", "−") if gold == "0" else ())))
    return sign + digits + rng.choice(("", ".0", ".000"))


def spell(name: str, gold: str, rng: Random) -> str:
    """One of the ways to write the right answer."""

    def space(*more: str) -> str:
        return rng.choice((" ", *SPACES, *more))

    full_stop = rng.choice(("", "", ".", f"{space()}."))
    if name == "arithmetic":
        return space("") + spell_number(gold, rng) + full_stop + space("")
    if name == "brackets":
        return space("") + "".join(bracket + space("") for bracket in gold.split()) + full_stop + space("")
    if name == "copy":
        return space("") + space().join(gold.split()) + full_stop + space("")
    before = rng.choice(("", "So 3 + 4 = 7. ", "The answer is easy. ", "The answer is: "))
    mark = rng.choice(("The answer is", "THE ANSWER IS:"))
    number = rng.choice(("", "$", "**€", "£")) + spell_number(gold, rng)
    return f" {before}{mark}{space('')}{number}" + rng.choice(("", ".", " dollars.", "%", ". The answer is 7.", ", so"))


def mutated(text: str, task: FewShotTask, rng: Random) -> str:
    """A right answer with one slip."""
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(pieces(task.name)) + text[at + rng.choice((0, 1, 2)) :]


def some_samples(task: FewShotTask) -> list[Sample]:
    samples = task.samples("report", NUM_SAMPLES)
    extra = {
        "arithmetic": ("0", "1", "100", "1000", "1234", "78000"),
        **dict.fromkeys(IN_STEPS, ("0", "1234", "78000")),
    }
    return [*samples, *(Sample(id=gold, question="?", gold=gold) for gold in extra.get(task.name, ()))]


@pytest.mark.parametrize("name", BUILTIN)
def test_no_way_to_go_on_changes_a_settled_grade(name):
    task, rng = built_in(name), Random(f"verdicts {name}")
    num_settled = 0
    for sample in some_samples(task):
        for _ in range(60):
            right = spell(name, sample.gold, rng)
            text = rng.choice((mutated(right, task, rng), mutated(right, task, rng), random_text(task, rng, 8) + right))
            data = text.encode()
            cuts = (cut for cut in range(len(data) + 1) if settled(task, sample, decoded(data[:cut])))
            start = next(cuts, None)
            if start is None:
                continue
            num_settled += 1
            grade = metrics(task, sample, decoded(data[:start]))
            shorter = rng.randint(0, len(right))
            endings = [data[start:].decode("utf-8", "ignore"), right, right[shorter:], "\n" + right, *pieces(name)]
            endings += [random_text(task, rng, 6) for _ in range(20)] + [right[cut:] for cut in range(len(right))]
            for ending in endings:
                whole = decoded(data[:start] + ending.encode())
                assert metrics(task, sample, whole) == grade, (sample.gold, decoded(data[:start]), ending)
                assert settled(task, sample, whole), "a verdict stands"
    assert num_settled > 400


@pytest.mark.parametrize("name", BUILTIN)
def test_a_right_answer_is_never_settled_as_wrong(name):
    task, rng = built_in(name), Random(f"right {name}")
    for sample in some_samples(task):
        for _ in range(60):
            text = spell(name, sample.gold, rng)
            assert metrics(task, sample, text) == {"accuracy": 1.0}, (sample.gold, text)
            data = text.encode()
            for start in (decoded(data[:cut]) for cut in range(len(data) + 1)):
                if settled(task, sample, start):
                    assert GENERATED[name] == "chain", "a short answer that can be right ends by itself"
                    assert metrics(task, sample, start) == {"accuracy": 1.0}, (sample.gold, text, start)


def test_every_short_text_can_be_a_number_just_if_some_right_line_begins_with_it():
    """All texts of up to six of the characters that matter, for numbers whose spellings are no longer than that."""
    for gold in ("42", "0", "7", "-4"):
        texts = ["".join(text) for length in range(7) for text in product("042,. -", repeat=length)]
        right = {text for text in texts if (value := parse_number(first_line(text))) is not None and value == int(gold)}
        beginnings = {text[:length] for text in right for length in range(len(text) + 1)}
        assert all(can_be_number(text, gold) for text in beginnings)
        if gold != "7":  # which these characters cannot write
            shorter = [text for text in texts if len(text) <= 2]
            assert {text for text in shorter if can_be_number(text, gold)} == {t for t in beginnings if len(t) <= 2}
        assert not any(
            can_be_number(text, gold) and text not in beginnings for text in texts if text.strip()[:1] == "2"
        )


def test_groups_of_three_digits_decide_how_many_may_come():
    beginnings = {"1,": False, "1,2": False, "12": True, "12,": True, "12,3": True, "123": True, "123,": False}
    assert {text: can_be_number(text, "12345") for text in beginnings} == beginnings
    assert can_be_number("1,2", "1234567") and not can_be_number("12,3", "1234567")


def test_every_short_ending_after_the_mark_stands_just_if_nothing_changes_the_number():
    texts = ["".join(text) for length in range(5) for text in product("10,. -x", repeat=length)]
    found = {text: number_after("is", f"is {text}") for text in texts}
    for text in texts:
        if number_after_stands("is", f"is {text}"):
            assert found[text] and all(
                number_after("is", f"is {text}{more}") == found[text] for more in ("0", ",000", ".5", "x", " is 7")
            )


@pytest.mark.parametrize(
    ("name", "gold", "still_open", "wrong"),
    [
        ("arithmetic", "42", " 4", " 5"),
        ("arithmetic", "6", " 6.", " 61"),
        ("arithmetic", "6", " +0", " -"),
        ("arithmetic", "6", " 6.0", " 6.5"),
        ("arithmetic", "42", " 42 .", " 42 +"),
        ("arithmetic", "42", " 0,0", " 42,"),
        ("arithmetic", "42", "\u00a042", " a"),
        ("arithmetic", "0", " -0", " 3"),
        ("arithmetic", "1234", " 1,2", " 12,"),
        ("arithmetic", "42", " 42 \ufffd", " 5\ufffd"),
        ("arithmetic", "42", "\ufffd", " \ufffd5"),
        ("brackets", "] ) }", " ]", " )"),
        ("brackets", "] ) }", "])}", "])}}"),
        ("brackets", "] ) }", " ] ) } .", " ] ."),
        ("brackets", "] ) }", "", " a"),
        ("copy", "river stone", " riv", " s"),
        ("copy", "river stone", " river  ", " rivers"),
        ("copy", "river stone", " river stone .", " river stone apple"),
        ("copy", "river stone", " river stone.", " river."),
        ("copy", "river stone", " r\ufffd", " r\ufffde"),
        ("gsm_symbolic", "17", " So 5. The answer is 5", " So 5. The answer is 5 "),
        ("gsm_symbolic", "17", "The answer is 5.", "The answer is 5. The"),
        ("gsm_symbolic", "17", "The answer is five", "The answer is 5,0 "),
        ("gsm_symbolic", "17", "The answer is 5\ufffd", "The answer is 5 \ufffd"),
    ],
)
def test_wrong_answers_are_settled_at_once(name, gold, still_open, wrong):
    task, sample = built_in(name), Sample(id="a", question="?", gold=gold)
    assert not settled(task, sample, still_open)
    assert settled(task, sample, wrong)
    assert task.grade(sample, GENERATED[name], completion(wrong, "settled")).outcome == "wrong"  # type: ignore[arg-type]
    assert not task.settled(sample, "rank", wrong) and not task.draft(sample, "rank"), "nothing is generated"


@pytest.mark.parametrize("name", SHORT)
def test_a_near_miss_is_settled_unless_the_right_answer_begins_with_it(name):
    task = built_in(name)
    for sample in task.samples("report", 100):
        for option in sample.options:
            begins = sample.gold.startswith(option) or option == "0"  # "07" is read as 7
            assert settled(task, sample, f" {option}") == (not begins), (sample.gold, option)


@pytest.mark.parametrize("name", SHORT)
def test_the_draft_is_the_right_answer_as_the_examples_write_it(name):
    task = built_in(name)
    for sample in task.samples("report", None):
        draft, asked = task.draft(sample, "short"), task.request(sample, "short")
        ranked = task.request(sample, "rank")
        assert isinstance(asked, GenerationRequest) and isinstance(ranked, LikelihoodRequest)
        assert draft == ranked.continuations[sample.gold_index]
        text, stop, rest = draft.partition(asked.stop[0])
        assert stop and not rest, "the mark that ends an answer ends the draft"
        assert task.grade(sample, "short", completion(text)).outcome == "right"
        assert not any(task.settled(sample, "short", text[:length]) for length in range(len(text) + 1))


def test_a_complete_right_answer_settles_a_chain_which_has_no_draft():
    task, sample = built_in("gsm_symbolic"), Sample(id="a", question="?", gold="17")
    text = " The answer is 17. The answer"
    assert settled(task, sample, text) and task.draft(sample, "chain") == ""
    assert task.grade(sample, "chain", completion(text, "settled")).outcome == "right"
    assert task.grade(sample, "chain", completion("None.", "settled")).outcome == "wrong", "and not cut or no_answer"


@pytest.mark.parametrize(
    ("text", "value"),
    [("19", 19), ("019", 19), ("-7", -7), ("−7", -7), ("+7", 7), ("1,234,567.50", 1234567.5), ("0.5", 0.5)]
    + [(text, None) for text in ("", "-", "1,23", "1,2345", ",123", "1.", ".5", "1e3", "3/4", "5 6", "--5", "٣", "½")]
    + [("60%", None), ("$5", None)],
)
def test_what_is_a_number(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12-7=5", [12, 7, 5]),
        ("(3)-2", [3, 2]),
        ("it fell to -2 from 3.", [-2, 3]),
        ("$1,250.50, then 1,25", [1250.5, 1, 25]),
        ("costs £195", [195]),
        ("none", []),
    ],
)
def test_numbers_in_a_text(text, numbers):
    assert [float(number) for number in all_numbers(text)] == numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", "5"), ("**$-1,200**.", "-1200"), ("-3.", "-3"), ("x = 5", ""), ("12.50 dollars", "12.50"),
     ("five. The answer is 5.", "5")],
)  # fmt: skip
def test_the_number_after_a_mark(text, found):
    assert number_after("The answer is", f"The answer is {text}") == found
    assert number_after("The answer is", "the answer is: 5") == "5"
    assert [first_line(line) for line in (" a b. \nc", "a..", "\nb")] == ["a b", "a.", ""], "one full stop is dropped"
