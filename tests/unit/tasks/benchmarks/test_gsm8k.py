from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from layercut.engine.base import Completion, GenerationRequest, Message
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.benchmarks.boxed import last_boxed, same_value

ROWS = [{"question": f"What is {i} + 1000?", "answer": f"It is.\n#### {i + 1000:,}"} for i in range(40)]
SAMPLE = Sample(id="a", question="q", gold="18")


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", ROWS[:30])
    write(tmp_path / "test.jsonl", ROWS[25:])
    return tmp_path


def grade(text: str, finish_reason: str = "stop") -> tuple[float, float, str, str]:
    answer = Completion(id="a", text=text, finish_reason=finish_reason, num_prompt_tokens=1, num_new_tokens=1)  # type: ignore[arg-type]
    score = load_task("gsm8k", data="unread").grade(SAMPLE, "chain", answer)
    assert list(score.metrics) == ["boxed", "last_number"]
    return score.metrics["boxed"], score.metrics["last_number"], score.answer, score.outcome


def test_selection_is_train_and_report_is_test_without_what_is_in_both(folder: Path) -> None:
    task = load_task("gsm8k", data=str(folder))
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert [sample.question for sample in report] == [row["question"] for row in ROWS[25:]]
    assert [sample.question for sample in selection] == [row["question"] for row in ROWS[:25]]
    assert report[0].gold == "1025"
    assert task.samples("report", 3) == report[:3]
    assert task.settings()["splits"] == "selection: train, report: test"


def test_a_single_file_is_halved_by_content(tmp_path: Path) -> None:
    task = load_task("gsm8k", data=str(write(tmp_path / "a.jsonl", ROWS)))
    turned = load_task("gsm8k", data=str(write(tmp_path / "b.jsonl", ROWS[::-1])))
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert len(report) + len(selection) == 40 and report and selection
    assert not {sample.id for sample in report} & {sample.id for sample in selection}
    assert {sample.id for sample in turned.samples("report", None)} == {sample.id for sample in report}
    assert task.settings()["splits"] == "all, halves by content hash"
    assert task.settings()["data"] != turned.settings()["data"], "another order is another limit"


def test_the_prompt_is_one_turn_with_the_usual_instruction(folder: Path) -> None:
    task = load_task("gsm8k", data=str(folder), max_new_tokens=99)
    sample = task.samples("report", 1)[0]
    asked = task.request(sample, "chain")
    assert isinstance(asked, GenerationRequest)
    assert asked.prompt == (
        Message("user", "What is 25 + 1000?\nPlease reason step by step, and put your final answer within \\boxed{}."),
    )
    assert asked.max_new_tokens == task.settings()["max_new_tokens"] == 99 and asked.stop == ()


@pytest.mark.parametrize(
    "boxed",
    [
        "18",
        "18.0",
        "018",
        "\\$18",
        "18\\%",
        "18 \\text{ dollars}",
        "\\text{18}",
        "36/2",
        "\\frac{36}{2}",
        " 18 ",
        "x = 18",
    ],
)
def test_equal_values_in_the_box_are_right(boxed: str) -> None:
    assert grade(f"So \\boxed{{{boxed}}}.")[:2] == (1.0, 1.0)


@pytest.mark.parametrize("boxed", ["-18", "1.8", "180", "18, 20", "1 8", "\\frac{18}{2}", "y", "eighteen"])
def test_other_values_in_the_box_are_wrong_whatever_stands_around(boxed: str) -> None:
    strict, flexible, answer, outcome = grade(f"18 it is: \\boxed{{{boxed}}}. So 18.")
    assert (strict, flexible, answer, outcome) == (0.0, 0.0, boxed, "wrong")


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        ("It is 18 dollars.", "stop", (0.0, 1.0, "18", "no_answer")),
        ("It is 17, no, -18", "stop", (0.0, 0.0, "-18", "no_answer")),
        ("No idea.", "stop", (0.0, 0.0, "", "no_answer")),
        ("\\boxed{}", "stop", (0.0, 0.0, "", "no_answer")),
        ("\\boxed{17} or \\boxed{18}", "stop", (1.0, 1.0, "18", "right")),
        ("\\boxed{18} or \\boxed{17}", "stop", (0.0, 0.0, "17", "wrong")),
        ("\\boxed{18} and so on and", "length", (1.0, 1.0, "18", "right")),
        ("\\boxed{17} and so on and", "length", (0.0, 0.0, "17", "cut")),
        ("So 3 * 6 = 18, \\boxed{1", "length", (0.0, 0.0, "1", "cut")),
        ("", "length", (0.0, 0.0, "", "cut")),
    ],
)
def test_strict_and_flexible_side_by_side(text: str, finish_reason: str, expected: tuple[object, ...]) -> None:
    assert grade(text, finish_reason) == expected


def test_no_beginning_settles_a_chain_and_there_is_no_draft(folder: Path) -> None:
    """Whatever was boxed, another box may come."""
    task = load_task("gsm8k", data=str(folder))
    sample = task.samples("report", 1)[0]
    assert not any(task.settled(sample, "chain", text) for text in ("", "no", "\\boxed{1}", "\\boxed{1}. Done."))
    assert task.draft(sample, "chain") == ""
    assert grade("\\boxed{1}. Done. No: \\boxed{18}")[:2] == (1.0, 1.0)


def test_a_thousands_separator_in_the_box() -> None:
    assert same_value("1,234", "1234") and same_value("1{,}234", "1234") and not same_value("1,234", "1")


@pytest.mark.parametrize(
    ("text", "box"), [("\\boxed{a{b}c}", "a{b}c"), ("\\boxed{1} \\boxed{2", "1"), ("boxed{1}", "")]
)
def test_the_last_closed_box(text: str, box: str) -> None:
    assert last_boxed(text) == box


def test_a_tower_of_powers_does_not_hang() -> None:
    start = time.monotonic()
    assert not same_value("9^{9^{9^{9^{9}}}}", "18")
    assert time.monotonic() - start < 30


def test_grading_works_outside_the_main_thread() -> None:
    found: list[bool] = []
    worker = threading.Thread(target=lambda: found.append(same_value("\\frac{36}{2}", "18")))
    worker.start()
    worker.join()
    assert found == [True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "q", "answer": "no mark 5"},
            r"test\.jsonl, line 16: the answer does not end in #### and a number",
        ),
        ({"question": "q", "answer": "#### five"}, r"test\.jsonl, line 16: the answer does not end in ####"),
        ({"question": "q"}, r"test\.jsonl, line 16: no field 'answer'"),
    ],
)
def test_a_damaged_row_is_named_with_its_line(folder: Path, row: dict[str, str], message: str) -> None:
    write(folder / "test.jsonl", [*ROWS[25:], row])
    with pytest.raises(InputError, match=message):
        load_task("gsm8k", data=str(folder)).samples("report", None)


def test_no_network_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra lm-eval is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match="openai/gsm8k .*`data` gsm8k=PATH") as caught:
        load_task("gsm8k").samples("report", 1)
    assert "\n" not in str(caught.value)


def test_max_new_tokens_must_be_positive() -> None:
    with pytest.raises(InputError, match="max_new_tokens 0"):
        load_task("gsm8k", data="unread", max_new_tokens=0)


def test_the_real_data(benchmark_data: Path) -> None:
    task = load_task("gsm8k", data=str(benchmark_data / "gsm8k"))
    report, selection = task.samples("report", None), task.samples("selection", None)
    assert (len(report), len(selection)) == (1319, 7473)
    assert report[0].gold == "18" and selection[0].gold == "72"
    assert not {sample.id for sample in report} & {sample.id for sample in selection}
    assert all(load_task("gsm8k").grade(s, "chain", boxed(s)).metrics["boxed"] == 1.0 for s in report)


def boxed(sample: Sample) -> Completion:
    text = f"The answer is \\boxed{{{sample.gold}}}."
    return Completion(id=sample.id, text=text, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
