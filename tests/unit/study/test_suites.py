"""Suites name tasks and readouts that there are, and find their local data."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.study.settings import TaskSettings
from layercut.study.suites import CLASSIFICATION, GENERATION, SUITES, suite, with_data
from layercut.tasks import TASKS, base_name, load_task
from layercut.tasks.base import known_readouts


def test_the_tasks_of_every_suite_are_known() -> None:
    named = {base_name(task.task) for tasks in SUITES.values() for task in tasks}
    assert named <= set(TASKS)
    assert len(CLASSIFICATION) == 7 and len(GENERATION) == 5
    assert [task.task for task in suite("paper")][:2] == ["mmlu:5", "arc_challenge:5"]


def test_builtin_asks_for_every_readout_that_its_tasks_have() -> None:
    for wanted in suite("builtin"):
        assert set(wanted.readouts or ()) == set(known_readouts(load_task(wanted.task)))


def test_a_limit_lowers_and_readouts_replace() -> None:
    assert {task.limit for task in suite("builtin")} == {None}
    assert [task.limit for task in suite("quick", limit=200)] == [200, 200, 200, 200, 100]
    assert [task.limit for task in suite("quick", limit=9)] == [9] * 5
    assert {task.readouts for task in suite("builtin", readouts=("rank",))} == {("rank",)}


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown suite 'papers'\. Did you mean paper\?"):
        suite("papers")


def test_local_data_by_task_and_by_folder(tmp_path: Path) -> None:
    (tmp_path / "arc_easy").mkdir()
    (tmp_path / "gsm8k").mkdir()
    tasks = tuple(TaskSettings(task=name) for name in ("arc_easy:5", "gsm8k", "copy", "lm-eval:sciq"))
    found = with_data(tasks, {"gsm8k": "own.jsonl", "sciq": "sciq.jsonl"}, tmp_path)
    assert [task.data for task in found] == [str(tmp_path / "arc_easy"), "own.jsonl", None, "sciq.jsonl"]
    assert [task.data for task in with_data(tasks, {"arc_easy:5": "five"})] == ["five", None, None, None]
    with pytest.raises(InputError, match="--data names piqa, which is not among the tasks arc_easy:5, gsm8k"):
        with_data(tasks, {"piqa": "x"})
    with pytest.raises(InputError, match="no such folder"):
        with_data(tasks, {}, tmp_path / "none")
