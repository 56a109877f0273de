"""MATH-500 and GSM8K: the final answer is the gold, and answers that are equal in value are the same."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from layercut.engine.base import GenerationRequest, Message
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.benchmarks.boxed import found_in, last_boxed_text, same_value
from tests.support.answers import completion, write_lines

ROWS = [
    {"problem": f"What is {i} over 7?", "answer": f"\\frac{{{i}}}{{7}}", "subject": "Algebra", "level": 1,
     "solution": f"We see that $2 + 2 = 4$, so it is $\\boxed{{\\frac{{{i}}}{{7}}}}$."}
    for i in range(1, 31)
]  # fmt: skip
SUMS = [{"question": f"What is {i} + 1000?", "answer": f"It is.\n#### {i + 1000:,}"} for i in range(40)]
GOLDS = {"math500": "\\frac{3}{7}", "gsm8k": "18"}
OTHER_METRIC = {"math500": "anywhere", "gsm8k": "last_number"}
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def grade(name: str, text: str, finish_reason: str = "stop", gold: str = "") -> tuple[float, float, str, str]:
    """Whether the box is right, and the other metric; the answer and its outcome."""
    asked = Sample(id="a", question="q", gold=gold or GOLDS[name])
    score = load_task(name, data="unread").grade(asked, "chain", completion(text, finish_reason))
    assert list(score.metrics) == ["boxed", OTHER_METRIC[name]]
    return score.metrics["boxed"], score.metrics[OTHER_METRIC[name]], score.answer, score.outcome


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "train.jsonl", SUMS[:30])
    write_lines(tmp_path / "test.jsonl", SUMS[25:])
    return tmp_path


def test_math500_is_halved_and_the_gold_is_the_final_answer(tmp_path):
    task = load_task("math500", data=write_lines(tmp_path / "test.jsonl", ROWS), max_new_tokens=99)
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert len(report) + len(selection) == 30 and report and selection
    assert not {sample.id for sample in report} & {sample.id for sample in selection}
    first = report[0]
    assert first.gold == ROWS[[row["problem"] for row in ROWS].index(first.question)]["answer"]
    assert first.data == {}, "subjects are no clusters"
    prompt = (Message("user", f"{first.question}\n{INSTRUCTION}"),)
    assert task.request(first, "chain") == GenerationRequest(id=first.id, prompt=prompt, max_new_tokens=99)
    assert task.chance([first], "chain") == {"boxed": 1.0, "anywhere": 1.0}


def test_gsm8k_selects_on_train_and_reports_on_test_without_what_is_in_both(folder):
    task = load_task("gsm8k", data=str(folder))
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert [sample.question for sample in report] == [row["question"] for row in SUMS[25:]]
    assert [sample.question for sample in selection] == [row["question"] for row in SUMS[:25]]
    assert report[0].gold == "1025" and task.samples("report", 3) == report[:3]
    assert task.settings()["splits"] == "selection: train, report: test"
    asked = load_task("gsm8k", data=str(folder), max_new_tokens=99).request(report[0], "chain")
    prompt = (Message("user", f"What is 25 + 1000?\n{INSTRUCTION}"),)
    assert asked == GenerationRequest(id=report[0].id, prompt=prompt, max_new_tokens=99)


@pytest.mark.parametrize(
    ("name", "text", "finish_reason", "expected"),
    [
        ("math500", "So \\boxed{\\frac{3}{7}}.", "stop", (1, 1, "\\frac{3}{7}", "right")),
        ("math500", "So \\boxed{\\frac37}", "stop", (1, 1, "\\frac37", "right")),
        ("math500", "So \\boxed{3/7}", "stop", (1, 1, "3/7", "right")),
        ("math500", "So \\boxed{\\dfrac{6}{14}}", "stop", (1, 1, "\\dfrac{6}{14}", "right")),
        ("math500", "\\boxed{1}, no, \\boxed{\\frac{3}{7}}", "stop", (1, 1, "\\frac{3}{7}", "right")),
        ("math500", "So $x = \\frac{3}{7}$.", "stop", (0, 1, "\\frac{3}{7}", "no_answer")),
        ("math500", "The final answer is $\\frac{3}{7}$. I hope it is.", "stop", (0, 1, "\\frac{3}{7}", "no_answer")),
        ("math500", "So \\boxed{0.43}", "stop", (0, 0, "0.43", "wrong")),
        ("math500", "So \\boxed{}", "stop", (0, 0, "", "no_answer")),
        ("math500", "", "stop", (0, 0, "", "no_answer")),
        ("math500", "It is hard to say.", "stop", (0, 0, "", "no_answer")),
        ("gsm8k", "It is 18 dollars.", "stop", (0, 1, "18", "no_answer")),
        ("gsm8k", "It is 17, no, -18", "stop", (0, 0, "-18", "no_answer")),
        ("gsm8k", "No idea.", "stop", (0, 0, "", "no_answer")),
        ("gsm8k", "\\boxed{}", "stop", (0, 0, "", "no_answer")),
        ("gsm8k", "\\boxed{17} or \\boxed{18}", "stop", (1, 1, "18", "right")),
        ("gsm8k", "\\boxed{18} or \\boxed{17}", "stop", (0, 0, "17", "wrong")),
        ("gsm8k", "\\boxed{1}. Done. No: \\boxed{18}", "stop", (1, 1, "18", "right")),
        ("gsm8k", "\\boxed{18} and so on and", "length", (1, 1, "18", "right")),
        ("gsm8k", "\\boxed{17} and so on and", "length", (0, 0, "17", "cut")),
        ("gsm8k", "So 3 * 6 = 18, \\boxed{1", "length", (0, 0, "1", "cut")),
        ("gsm8k", "", "length", (0, 0, "", "cut")),
    ],
)
def test_the_box_and_the_other_metric(name, text, finish_reason, expected):
    assert grade(name, text, finish_reason) == expected


@pytest.mark.parametrize(
    "boxed",
    [
        *("18", "18.0", "018", "\\$18", "18\\%", "18 \\text{ dollars}", "\\text{18}"),
        *("36/2", "\\frac{36}{2}", " 18 ", "x = 18"),
    ],
)
def test_equal_values_in_the_box_are_right(boxed):
    assert grade("gsm8k", f"So \\boxed{{{boxed}}}.")[:2] == (1.0, 1.0)


@pytest.mark.parametrize("boxed", ["-18", "1.8", "180", "18, 20", "1 8", "\\frac{18}{2}", "y", "eighteen"])
def test_other_values_in_the_box_are_wrong_whatever_stands_around(boxed):
    assert grade("gsm8k", f"18 it is: \\boxed{{{boxed}}}. So 18.") == (0.0, 0.0, boxed, "wrong")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("(\\pi/2, 3)", "\\left( 3, \\frac{\\pi}{2} \\right)", False),
        ("\\text{Evelyn}", "\\text{Evelyn}", True),
        ("0.5", "\\frac{1}{2}", True),
        ("x=5", "5", True),
        ("10,080", "10080", True),
        ("1{,}234", "1234", True),
        ("1,234", "1", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("p - q", "p-q", True),
        ("q - p", "p-q", False),
        ("[-2,7]", "(-2,7)", False),
    ],
)
def test_the_same_value(answer, gold, same):
    assert same_value(answer, gold) is same


def test_the_same_in_a_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(same_value, "3/7", GOLDS["math500"]).result()
        assert not pool.submit(same_value, "x+1", "x+2").result()


def test_the_last_closed_box_of_any_text():
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(["\\boxed{", "{", "}", "a"], k=9))
        starts = [place for place in range(len(text)) if text.startswith("\\boxed{", place)]
        ends = {start: matching(text, start + 6) for start in starts}
        closed = [start for start in starts if ends[start]]
        wanted = text[closed[-1] + 7 : ends[closed[-1]]] if closed else ""
        assert last_boxed_text(text) == wanted, text


def matching(text: str, start: int) -> int:
    """The place of the brace that closes the one at ``start``; 0 if none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return 0


@pytest.mark.parametrize("text", ["\\boxed{" * 150_000, "x=(\n" * 250_000, "$x=" * 350_000])
def test_a_megabyte_is_graded_within_seconds(text):
    begun = time.monotonic()
    assert last_boxed_text(text) == "" and not found_in(text, "4")
    assert found_in(f"{text} The final answer is $4$.", "4")
    assert time.monotonic() - begun < 25


def test_an_answer_that_takes_too_long_is_not_printed(monkeypatch, caplog):
    monkeypatch.setattr("layercut.tasks.benchmarks.boxed._SECONDS", 1)
    assert not found_in("12 " * 33_000, "4") and not caplog.text


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("math500", {"problem": "p", "solution": "s"}, "no field 'answer'"),
        ("gsm8k", {"question": "q", "answer": "no mark 5"}, "the answer does not end in #### and"),
        ("gsm8k", {"question": "q", "answer": "#### five"}, "the answer does not end in ####"),
        ("gsm8k", {"question": "q"}, "no field 'answer'"),
    ],
)
def test_a_damaged_row_is_named_with_its_line(tmp_path, name, row, message):
    good = {"math500": ROWS, "gsm8k": SUMS}[name]
    data = write_lines(tmp_path / "test.jsonl", [*good, row])
    with pytest.raises(InputError, match=rf"test\.jsonl, line {len(good) + 1}: {message}"):
        load_task(name, data=data).samples("report", None)
    with pytest.raises(InputError, match="max_new_tokens 0"):
        load_task(name, max_new_tokens=0)


def test_no_beginning_settles_a_chain_and_there_is_no_draft(folder):
    """Whatever was boxed, another box may come."""
    task = load_task("gsm8k", data=str(folder))
    sample = task.samples("report", 1)[0]
    assert not any(task.settled(sample, "chain", text) for text in ("", "no", "\\boxed{1}", "\\boxed{1}. Done."))
    assert task.draft(sample, "chain") == ""


def test_every_gold_answer_of_the_benchmarks_answers_itself(benchmark_data):
    math500, gsm8k = (load_task(name, data=str(benchmark_data / name)) for name in ("math500", "gsm8k"))
    samples = [*math500.samples("report", None), *math500.samples("selection", None)]
    assert len(samples) == 500
    assert [one.gold for one in samples if not grade("math500", f"So \\boxed{{{one.gold}}}.", gold=one.gold)[0]] == []
    report, selection = gsm8k.samples("report", None), gsm8k.samples("selection", None)
    assert (len(report), len(selection)) == (1319, 7473)
    assert report[0].gold == "18" and selection[0].gold == "72"
    assert not {sample.id for sample in report} & {sample.id for sample in selection}
    answers = [completion(f"The answer is \\boxed{{{sample.gold}}}.") for sample in report]
    assert all(gsm8k.grade(*one).metrics["boxed"] for one in zip(report, ["chain"] * 1319, answers, strict=True))
