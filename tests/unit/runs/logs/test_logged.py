"""Runs that other tools wrote, against run folders of layercut."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.evidence.two_runs import compare_two, comparison_notes, open_run
from layercut.runs.logs.logged import LoggedRun, LoggedTask, mean_chance, name_metric, outcome_of, settings_differences
from tests.support.run_builder import Result, build_run


def logged(path: Path, values: list[float], **more: object) -> LoggedRun:
    shared = {"gold": "1", "outcome": "", "question": "", "answer": ""}
    records = [shared | {"id": str(n), "metrics": {"acc": value}} for n, value in enumerate(values)]
    return LoggedRun(path, "a tool", "m", [LoggedTask(name="sums", readout="written", records=records, **more)])  # type: ignore[arg-type]


def test_other_items_are_paired_where_they_can_be(tmp_path: Path) -> None:
    first, second = logged(tmp_path / "a", [1.0, 0.0, 1.0]), logged(tmp_path / "b", [1.0, 1.0])
    (row,) = compare_two(first, second)
    assert row.n == 2 and "2 items of sums in common (a has 3, b has 2)" in row.note
    assert settings_differences(first, second) == []


def test_two_versions_of_a_task_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scores of different versions cannot be compared"):
        compare_two(logged(tmp_path / "a", [1.0], version="1"), logged(tmp_path / "b", [1.0], version="2"))


def test_a_run_and_a_log_have_no_task_in_common(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", [Result(task="copy", readout="short", score=0.5)])
    log = logged(tmp_path / "log", [1.0])
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="have no task in common"):
        compare_two(run, log)
    assert "prompts were not compared" in comparison_notes(run, log)[-1]


def test_a_metric_is_named_so_that_higher_is_better() -> None:
    assert name_metric("acc", 1.0) == ("acc", 1.0) and name_metric("errs", 1.0, False) == ("neg_errs", -1.0)
    assert name_metric("word_perplexity", 12.0) == ("neg_word_perplexity", -12.0)
    assert name_metric("perplexity", -2.5, False) == ("log_likelihood", -2.5)
    assert outcome_of({"neg_errs": -1.0}) == "wrong" and outcome_of({"neg_errs": 0.0, "acc": 1.0}) == "right"
    assert outcome_of({"log_likelihood": 0.0}) == outcome_of({"perplexity": 1.0}) == outcome_of({}) == ""


def test_chance_of_guessing() -> None:
    assert mean_chance([2, 4]) == 0.375 and mean_chance([]) is None and mean_chance([0]) is None
