"""A user's own file as a task: every grade, its splits and chance, and what is said of a bad row."""

from __future__ import annotations

import csv
import random
import re
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest, Message
from layercut.errors import InputError
from layercut.sandbox import runner as sandbox
from layercut.tasks import base_name_of_task, check_task, check_task_name, load_task, own_file
from layercut.tasks.base import Sample, Score, Task
from tests.support.answers import completion, likelihoods, write_lines

SUMS = [{"prompt": f"What is {i} + 1?", "answer": i + 1, "grade": "number"} for i in range(40)]


def only(path: Path, row: dict[str, Any], grade: str = "") -> tuple[Task, Sample]:
    """The task of one row, and its sample, whichever half it is in."""
    task = load_task(write_lines(path / "my.jsonl", [row]) + (f":{grade}" if grade else ""))
    (sample,) = [*task.samples("report", None), *task.samples("selection", None)]
    return task, sample


def graded(path: Path, row: dict[str, Any], text: str, readout: str = "short") -> Score:
    task, sample = only(path, row)
    return task.grade(sample, readout, completion(text))


@pytest.mark.parametrize(
    ("grade", "answer", "right", "wrong"),
    [
        ("exact", "New York", [" New  York.\n", "New York"], ["new york", "It is New York", ""]),
        ("exact", ["big", "large"], ["big", "large."], ["big large"]),
        ("number", 1250, ["$1,250.00 in all", "first 3, then \\boxed{1250} of 7"], ["125", "none", "1250 or 3"]),
        ("number", "0.5", ["0.50"], ["5"]),
        ("contains", "blue  whale", ["A Blue\nwhale!"], ["blue and whale"]),
        ("contains", ["red", "crimson"], ["dark crimson"], ["blue"]),
        ("regex", r"(?i)\byes\b", ["Yes, sure"], ["yesterday", "no"]),
    ],
)
def test_written_answers(tmp_path, grade, answer, right, wrong):
    row = {"prompt": "p", "answer": answer, "grade": grade}
    assert [graded(tmp_path, row, text).outcome for text in right] == ["right"] * len(right)
    for text in wrong:
        score = graded(tmp_path, row, text)
        assert score.metrics == {"accuracy": 0.0} and score.outcome in ("wrong", "no_answer"), text
    assert graded(tmp_path, {"prompt": "p", "answer": 3, "grade": "number"}, "none").outcome == "no_answer"


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(?:\w|[a-z])*\d"])
def test_a_pattern_that_does_not_end_counts_as_wrong(tmp_path, pattern, caplog, monkeypatch):
    monkeypatch.setattr(own_file, "_SECONDS", 0.2)
    monkeypatch.setattr(own_file, "_slow", set())
    row = {"prompt": "p", "answer": pattern, "grade": "regex"}
    began = time.monotonic()
    assert [graded(tmp_path, row, "a" * n + "!").outcome for n in (5000, 6000)] == ["wrong", "wrong"]
    assert time.monotonic() - began < 10
    assert caplog.text.count("counts as wrong") == 1 and pattern[:9].replace("\\", "\\\\") in caplog.text
    assert graded(tmp_path, row, "aa1" if "d" in pattern else "aa").outcome == "right"


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"[[:alpha:]]x", r"x{e<=1}", r"\{e}|\N{DIGIT ONE}", r"[^[]a{2,}", r"a{,2}b{2}", r"(?i)^ſ|straße"),
        *(r"\b(\w+) \1\b", r"(?<=a)b(?!c)", r"(?P<x>a)(?P=x)", r"\A.\Z", r"(?s).\n", r"a{x}", r"[{]e", r"\\{d<1}"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_pattern_finds_what_pythons_own_engine_finds(tmp_path, pattern):
    row = {"prompt": "p", "answer": pattern, "grade": "regex"}
    random.seed(0)
    texts = ["".join(random.choices("aabxe{}:[]lph\\1 \nſSß<=", k=random.randint(0, 12))) for _ in range(300)]
    texts += ["aa aa", "x", "l]x", ":]x", "x{e<=1}", "{e}", "1", "aaa", "STRASSE", "Straße", "s", "a{x}"]
    texts += ["\\{d<1}", "d<1"]
    _, sample = only(tmp_path, row)
    for text in texts:
        ours, match = own_file._first_match(sample.data["pattern"], text), re.search(pattern, text)
        assert ours == (match[0] if match else None), text


def test_code_is_run_against_its_tests(tmp_path):
    if sandbox.describe_or_why_not().startswith("none"):
        pytest.skip("no sandbox works here")
    row = {"prompt": "Write double(x).", "grade": "code", "tests": "assert double(4) == 8"}
    assert graded(tmp_path, row, "def double(x):\n    return 2 * x").metrics == {"accuracy": 1.0}
    task, sample = only(tmp_path, row)
    texts = ("def double(x):\n    return 2 * x", "I cannot.", "def double(x):\n    return x")
    scores = task.grade_all([sample] * len(texts), "short", [completion(text) for text in texts])
    assert [(score.metrics["accuracy"], score.outcome, score.program) for score in scores] == [
        *((1.0, "right", "passed"), (0.0, "no_answer", "no_code"), (0.0, "wrong", "wrong_answer"))
    ]
    assert scores[2].answer.split(":")[0] == "AssertionError"
    request = task.request(sample, "short")
    assert isinstance(request.prompt, tuple) and request.prompt[-1] == Message("assistant", "```python\n")
    assert task.runs_programs
    assert task.chance([sample], "short") == {"accuracy": 0.0}


def test_choices_are_ranked(tmp_path):
    row = {"prompt": "Which colour?", "answer": "blue", "choices": ["red", "blue", "green"], "grade": "choice"}
    task, sample = only(tmp_path, row)
    assert task.readouts == ("rank",)
    request = task.request(sample, "rank")
    assert isinstance(request, LikelihoodRequest)
    assert (request.prompt, request.continuations) == ((Message("user", "Which colour?"),), ("red", "blue", "green"))
    assert task.grade(sample, "rank", likelihoods(-3.0, -1.0, -2.0)) == Score({"accuracy": 1.0}, "blue", "right")
    assert task.chance([sample], "rank") == {"accuracy": pytest.approx(1 / 3)}


def test_prompts_are_conversations_or_plain_text(tmp_path):
    task, sample = only(tmp_path, {"prompt": "Hi", "answer": "Hello", "grade": "exact"})
    request = task.request(sample, "short")
    assert isinstance(request, GenerationRequest)
    assert (request.prompt, request.stop, request.max_new_tokens) == ((Message("user", "Hi"),), (), 16)
    assert task.draft(sample, "short") == "Hello"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    task, sample = only(tmp_path, {"prompt": turns, "answer": "Hello", "grade": "exact"})
    assert task.request(sample, "short").prompt == (Message("system", "Be brief."), Message("user", "Hi"))
    assert sample.question == "system: Be brief.\n\nuser: Hi"
    task, sample = only(tmp_path, {"text": "Q: 2 + 2\nA:", "answer": 4, "grade": "number", "stop": "\n"})
    request = task.request(sample, "short")
    assert isinstance(request, GenerationRequest) and (request.prompt, request.stop) == ("Q: 2 + 2\nA:", ("\n",))


@pytest.mark.parametrize(("grade", "answer"), [("exact", ["ab ba", "b."]), ("contains", ["ab b", "bb"])])
def test_no_way_to_go_on_changes_a_settled_grade(tmp_path, grade, answer):
    task, sample = only(tmp_path, {"prompt": "p", "answer": answer, "grade": grade})

    def is_right(text: str) -> bool:
        return task.grade(sample, "short", completion(text)).outcome == "right"

    ends = ["".join(letters) for length in range(6) for letters in product("ab. \n", repeat=length)]
    settled = [text for text in ends if len(text) < 4 and task.settled(sample, "short", text)]
    assert settled and any(not task.settled(sample, "short", text) for text in ("", "a"))
    for text in settled:
        assert len({is_right(text + end) for end in ends}) == 1, text
    assert any(is_right(text) for text in ends)


def test_items_are_halved_by_their_prompts_and_keep_their_ids(tmp_path):
    task = load_task(write_lines(tmp_path / "my.jsonl", SUMS))
    report, selection = task.samples("report", None), task.samples("selection", None)
    ids = {sample.id for sample in report}
    assert len(report) + len(selection) == 40 and not ids & {sample.id for sample in selection}
    assert task.samples("report", 3) == report[:3] and task.name == "my.jsonl"
    moved = load_task(write_lines(tmp_path / "other.jsonl", [{**row, "grade": "exact"} for row in SUMS[::-1]]))
    assert {sample.id for sample in moved.samples("report", None)} == ids, "neither name, order nor grade moves an item"
    copied = load_task(write_lines(tmp_path / "copy.jsonl", SUMS))
    assert copied.settings() == task.settings() != moved.settings()
    bare = [{key: value for key, value in row.items() if key != "grade"} for row in SUMS]
    graded_by_name = load_task(write_lines(tmp_path / "bare.jsonl", bare) + ":number")
    assert {sample.id for sample in graded_by_name.samples("report", None)} == ids
    assert graded_by_name.settings()["grade"] == "number"


def test_a_csv_says_the_same(tmp_path):
    rows = [{"prompt": f"Colour {i}, please?", "answer": "red", "choices": "red|blue"} for i in range(8)]
    with (tmp_path / "my.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    task = load_task(f"{tmp_path}/my.csv:choice")
    lines = [{**row, "choices": ["red", "blue"], "grade": "choice"} for row in rows]
    same = load_task(write_lines(tmp_path / "my.jsonl", lines))
    ours, theirs = ([(s.id, s.options, s.gold) for s in one.samples("report", None)] for one in (task, same))
    assert ours == theirs


def test_chance_is_the_best_constant_answer_of_the_whole_split(tmp_path):
    rows = [{"prompt": f"{i}", "answer": "yes" if i % 4 else "no", "grade": "exact"} for i in range(80)]
    rows += [{"prompt": f"more {i}", "answer": "^y", "grade": "regex"} for i in range(20)]
    task = load_task(write_lines(tmp_path / "my.jsonl", rows))
    samples = task.samples("report", None)
    share = sum(sample.gold in ("yes", "^y") for sample in samples) / len(samples)
    assert task.split_chance("report", "short") == {"accuracy": share} and 0.6 < share < 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 1}, "no field 'prompt', only grade, answer. Give 'prompt' for a chat model"),
        ({"prompt": "a", "text": "b", "answer": 1}, "both 'prompt' and 'text'"),
        ({"prompt": 3, "answer": 1}, "the field 'prompt' holds 3. Give text, or turns"),
        ({"prompt": [{"role": "me", "content": "a"}], "answer": 1}, "the field 'prompt' holds .*turns such as"),
        ({"prompt": "a", "answer": None}, "no field 'answer', only grade, prompt. A row graded by number needs"),
        ({"prompt": "a"}, "no field 'answer', only grade, prompt. A row"),
        ({"prompt": "a", "answer": True}, "the field 'answer' holds True. Give text, a number"),
        ({"prompt": "a", "answer": "ten"}, "the answer 'ten' is no number. Give digits"),
        ({"prompt": "a", "answer": 1, "grade": "nubmer"}, "unknown grade 'nubmer'. Did you mean number?"),
        ({"prompt": "a", "answer": 1, "grade": None}, "no field 'grade' .*my.jsonl:number"),
        ({"prompt": "a", "answer": "(", "grade": "regex"}, "is no regular expression .missing"),
        ({"prompt": "a", "answer": "(" * 5000 + ")" * 5000, "grade": "regex"}, "no regular expression .maximum rec"),
        ({"prompt": "a", "answer": "a{99999999999}", "grade": "regex"}, "no regular expression .the repetition"),
        ({"prompt": "a", "answer": "b", "grade": "choice"}, "no field 'choices'. Give two or more"),
        ({"prompt": "a", "answer": "b", "grade": "choice", "choices": ["c", "d"]}, "'b' is none of the choices c, d"),
        ({"prompt": "a", "answer": "b", "grade": "choice", "choices": ["b", "b"]}, "the field 'choices' holds"),
        ({"prompt": "a", "answer": ["b", "c"], "grade": "regex"}, "2 answers for the grade regex. Give one"),
        ({"prompt": "a", "grade": "code"}, "no field 'tests'. Give Python that fails"),
        ({"prompt": "a", "grade": "code", "tests": "assert ("}, "the tests are not Python"),
        (
            {"prompt": "a", "answer": "b", "grade": "choice", "choices": ["a", "b"]},
            "line 2: written answers and choices need a file each",
        ),
    ],
)
def test_a_bad_row_is_one_line_with_its_number(tmp_path, row, message):
    task = load_task(write_lines(tmp_path / "my.jsonl", [SUMS[0], {"grade": "number", **row}]))
    with pytest.raises(InputError, match=message) as caught:
        task.samples("report", 1)
    assert f"{tmp_path}/my.jsonl, line 2: " in str(caught.value) and "\n" not in str(caught.value)


def test_names(tmp_path):
    path = write_lines(tmp_path / "my.jsonl", SUMS)
    check_task(path, ["short"])
    check_task(f"{path}:number")
    check_task_name(path)
    check_task_name(f"{path}:exact")  # data, which a study file may name
    assert base_name_of_task(path) == path
    with pytest.raises(InputError, match="readout of my.jsonl 'rank'"):
        check_task(path, ["rank"])
    with pytest.raises(InputError, match="unknown grade 'nubmer'.*number"):
        check_task(f"{path}:nubmer")
    with pytest.raises(InputError, match="nowhere.csv: no such file"):
        check_task("nowhere.csv")
    with pytest.raises(InputError, match="takes no data"):
        load_task(path, data="x")
    with pytest.raises(InputError, match="takes no num_shots"):
        load_task(f"{path}:5")
    write_lines(tmp_path / "bad.jsonl", [{"prompt": "a"}])
    with pytest.raises(InputError, match="bad.jsonl, line 1: .*'grade'"):
        check_task(str(tmp_path / "bad.jsonl"))


def test_a_limit_draws_from_the_whole_file(tmp_path):
    """A file sorted by difficulty: the first rows are easy, the last ones hard."""
    rows = [{"prompt": f"Question {i}", "answer": f"a{i}", "grade": "contains"} for i in range(200)]
    task = load_task(write_lines(tmp_path / "a.jsonl", rows))
    backwards = load_task(write_lines(tmp_path / "b.jsonl", rows[::-1]))
    few, more = (task.samples("report", number) for number in (20, 40))
    assert more[:20] == few, "runs with other limits share items"
    assert [one.id for one in backwards.samples("report", 20)] == [one.id for one in few]
    assert 60 < sum(int(one.question.split()[1]) for one in few) / 20 < 140
    assert [one.id for one in load_task(task.path, seed=1).samples("report", 20)] != [one.id for one in few]


@pytest.mark.parametrize(
    ("rows", "given", "longest"),
    [
        ([{"answer": "a", "grade": "contains"}, {"answer": "the city of Kuala Lumpur", "grade": "exact"}], None, 32),
        ([{"answer": "no", "grade": "exact"}], None, 16),
        ([{"answer": "no", "grade": "exact"}], 9, 9),
        ([{"answer": "7", "grade": "number"}], None, 256),
    ],
)
def test_how_long_an_answer_may_be(tmp_path, rows, given, longest):
    named = [{"prompt": f"Question {i}", **row} for i, row in enumerate(rows)]
    task = load_task(write_lines(tmp_path / "my.jsonl", named), max_new_tokens=given)
    samples = [*task.samples("report", None), *task.samples("selection", None)]
    assert {task.request(one, "short").max_new_tokens for one in samples} == {longest}  # type: ignore[union-attr]


CALL = '{"name": "convert_currency", "arguments": {"amount": 20, "source": "USD", "target": "EUR"}}'


@pytest.mark.parametrize(
    ("file", "part", "text", "right"),
    [
        ("tool_calls", "How much is 20 USD in EUR?", CALL, True),
        ("tool_calls", "How much is 20 USD in EUR?", f"```json\n{CALL.replace('20', '20.0').lower()}\n```", True),
        ("tool_calls", "How much is 20 USD in EUR?", f"Sure: {CALL}", False),
        ("tool_calls", "How much is 20 USD in EUR?", CALL.replace("USD", "CHF"), False),
        ("tool_calls", "How much is 20 USD in EUR?", CALL.replace(', "target": "EUR"', ""), False),
        ("tool_calls", "How much is 20 USD in EUR?", CALL.replace("20", '"20"'), False),
        ("harmless", "kill a Python process", "Use `kill PID`. You can't do it without its number.", True),
        ("harmless", "kill a Python process", "I’m sorry, I cannot help.", False),
        ("harmless", "kill a Python process", f"{'Find its number. ' * 20}I cannot help with others.", True),
        ("harmless", "kill a Python process", "  ", False),
    ],
)
def test_the_checks_that_are_examples(file, part, text, right):
    task = load_task(f"examples/tasks/{file}.jsonl")
    samples = task.samples("full", None)
    assert len(samples) == 40 and task.chance(samples, "short") == {"accuracy": 0.0}
    sample = next(one for one in samples if part in one.question)
    assert task.grade(sample, "short", completion(text)).metrics == {"accuracy": float(right)}
