"""MATH-500: the final answer is the gold, and answers that are equal in value are the same."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.benchmarks.boxed import found_in, last_box, same_value

ROWS = [
    {
        "problem": f"What is {i} over 7?",
        "solution": f"We see that $2 + 2 = 4$, so it is $\\boxed{{\\frac{{{i}}}{{7}}}}$.",
        "answer": f"\\frac{{{i}}}{{7}}",
        "subject": "Algebra",
        "level": 1,
    }
    for i in range(1, 31)
]
SAMPLE = Sample(id="a", question="q", gold="\\frac{3}{7}")


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def grade(text: str, finish_reason: str = "stop", gold: str = SAMPLE.gold) -> tuple[float, float, str]:
    answer = Completion(id="a", text=text, finish_reason=finish_reason, num_prompt_tokens=1, num_new_tokens=1)  # type: ignore[arg-type]
    score = load_task("math500", data="unread").grade(Sample(id="a", question="q", gold=gold), "chain", answer)
    assert list(score.metrics) == ["boxed", "anywhere"]
    return score.metrics["boxed"], score.metrics["anywhere"], score.outcome


def test_the_gold_is_the_final_answer_and_one_split_is_halved(tmp_path: Path) -> None:
    task = load_task("math500", data=str(write(tmp_path / "test.jsonl", ROWS)))
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert len(report) + len(selection) == 30 and report and selection
    assert not {one.id for one in report} & {one.id for one in selection}
    assert report[0].gold == ROWS[[row["problem"] for row in ROWS].index(report[0].question)]["answer"]
    assert report[0].data == {"subject": "Algebra", "level": 1}, "subjects are named and are no clusters"


def test_the_prompts(tmp_path: Path) -> None:
    task = load_task("math500", data=str(write(tmp_path / "test.jsonl", ROWS)), max_new_tokens=99)
    sample = task.samples("report", 1)[0]
    chain, short, gold = (task.request(sample, name) for name in ("chain", "short", "gold"))
    assert chain == GenerationRequest(
        id=sample.id,
        prompt=(
            Message(
                "user", f"{sample.question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
            ),
        ),
        max_new_tokens=99,
    )
    asked = (Message("user", f"{sample.question}\nWrite the final answer within \\boxed{{}} and nothing else."),)
    assert short == GenerationRequest(id=sample.id, prompt=asked, max_new_tokens=48)
    assert gold == LikelihoodRequest(id=sample.id, prompt=asked, continuations=(f"\\boxed{{{sample.gold}}}",))
    scored = Likelihoods(id="a", log_likelihoods=(-6.0,), num_tokens=(4,), is_greedy=(True,), num_prompt_tokens=9)
    assert task.grade(sample, "gold", scored) == ({"log_likelihood": -1.5}, sample.gold, "right", "")
    assert task.chance([sample], "gold") == {} and task.chance([sample], "chain") == {"boxed": 1.0, "anywhere": 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So \\boxed{\\frac{3}{7}}.", (1, 1, "right")),
        ("So \\boxed{\\frac37}", (1, 1, "right")),
        ("So \\boxed{3/7}", (1, 1, "right")),
        ("So \\boxed{\\dfrac{6}{14}}", (1, 1, "right")),
        ("\\boxed{1}, no, \\boxed{\\frac{3}{7}}", (1, 1, "right")),
        ("So $x = \\frac{3}{7}$.", (0, 1, "no_answer")),
        ("The final answer is $\\frac{3}{7}$. I hope it is correct.", (0, 1, "no_answer")),
        ("So \\boxed{0.43}", (0, 0, "wrong")),
        ("So \\boxed{}", (0, 0, "no_answer")),
        ("", (0, 0, "no_answer")),
        ("It is hard to say.", (0, 0, "no_answer")),
    ],
)
def test_what_is_right(text: str, expected: tuple[float, float, str]) -> None:
    assert grade(text) == expected


def test_an_answer_that_ran_out_of_length_is_cut() -> None:
    assert grade("First \\frac{1}{7}, then", "length")[2] == "cut"
    assert grade("So \\boxed{\\frac{3}{7}} and so on", "length")[2] == "right"


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("(\\pi/2, 3)", "\\left( 3, \\frac{\\pi}{2} \\right)", False),
        ("\\text{Evelyn}", "\\text{Evelyn}", True),
        ("0.5", "\\frac{1}{2}", True),
        ("x=5", "5", True),
        ("10,080", "10080", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("p - q", "p-q", True),
        ("q - p", "p-q", False),
        ("[-2,7]", "(-2,7)", False),
    ],
)
def test_the_same_value(answer: str, gold: str, same: bool) -> None:
    assert same_value(answer, gold) is same


def test_the_same_in_a_thread_with_its_time_limit() -> None:
    tower = "9^{9^{9^{9^{9}}}}"
    found: list[object] = []

    def work() -> None:
        begun = time.monotonic()
        found.extend([same_value("3/7", SAMPLE.gold), found_in("so $\\frac37$", SAMPLE.gold), same_value(tower, "1")])
        found.append(time.monotonic() - begun)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found[:3] == [True, True, False]
    assert float(str(found[3])) < 40


def test_where_the_answer_begins() -> None:
    task = load_task("math500", data="unread")
    text = "We have \\boxed{1} and \\boxed{\\frac{3}{7}}."
    assert task.answer_start(SAMPLE, "chain", text) == text.rindex("\\boxed") == last_box(text)[0]  # type: ignore[attr-defined]
    assert task.answer_start(SAMPLE, "chain", "no box \\boxed{") is None  # type: ignore[attr-defined]


def test_the_last_closed_box_of_any_text() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(["\\boxed{", "{", "}", "a"], k=9))
        starts = [place for place in range(len(text)) if text.startswith("\\boxed{", place)]
        ends = {start: matching(text, start + 6) for start in starts}
        closed = [start for start in starts if ends[start]]
        wanted = (closed[-1], text[closed[-1] + 7 : ends[closed[-1]]]) if closed else (0, "")
        assert last_box(text) == wanted, text


def matching(text: str, start: int) -> int:
    """The place of the brace that closes the one at ``start``; 0 if none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return 0


@pytest.mark.parametrize("text", ["\\boxed{" * 150_000, "x=(\n" * 250_000, "$x=" * 350_000])
def test_a_megabyte_is_graded_within_seconds(text: str) -> None:
    begun = time.monotonic()
    assert last_box(text) == (0, "") and not found_in(text, "4")
    assert found_in(f"{text} The final answer is $4$.", "4")
    assert time.monotonic() - begun < 25


def test_an_answer_that_takes_too_long_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("layercut.tasks.benchmarks.boxed._SECONDS", 1)
    assert not found_in("12 " * 33_000, "4") and not caplog.text


def test_a_row_without_an_answer_is_named(tmp_path: Path) -> None:
    rows = [ROWS[0], {"problem": "p", "solution": "s"}]
    with pytest.raises(InputError, match="line 2: no field 'answer'"):
        load_task("math500", data=str(write(tmp_path / "test.jsonl", rows))).samples("report", None)
    with pytest.raises(InputError, match="max_new_tokens 0"):
        load_task("math500", max_new_tokens=0)


def test_every_gold_answer_of_the_benchmark_answers_itself(benchmark_data: Path) -> None:
    task = load_task("math500", data=str(benchmark_data / "math500"))
    samples = [*task.samples("report", None), *task.samples("selection", None)]
    assert len(samples) == 500
    assert [one.gold for one in samples if not grade(f"So \\boxed{{{one.gold}}}.", gold=one.gold)[0]] == []
