"""Suites name tasks and readouts that there are, and find their local data."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.settings import TaskSettings
from layercut.tasks import TASKS, base_name_of_task, load_task
from layercut.tasks.suites import CLASSIFICATION, GENERATION, SUITES, asked_tasks, suite_named, with_local_data


def test_the_tasks_of_every_suite_are_known() -> None:
    named = {base_name_of_task(task.task) for tasks in SUITES.values() for task in tasks}
    assert named <= set(TASKS)
    assert len(CLASSIFICATION) == 7 and len(GENERATION) == 5
    assert [task.task for task in suite_named("paper")][:2] == ["mmlu:5", "arc_challenge:5"]


def test_builtin_leaves_readouts_to_its_tasks() -> None:
    assert [load_task(task.task).readouts for task in suite_named("builtin") if task.readouts is None] == [
        *[("short", "rank")] * 3, ("chain", "rank"),
    ]  # fmt: skip


def test_a_limit_lowers_and_readouts_replace() -> None:
    assert {task.limit for task in suite_named("builtin")} == {None}
    assert [task.limit for task in suite_named("quick", limit=200)] == [200, 200, 200, 100]
    assert [task.limit for task in suite_named("quick", limit=9)] == [9] * 4
    assert {task.readouts for task in suite_named("builtin", readouts=("rank",))} == {("rank",)}
    with pytest.raises(InputError, match="unknown suite 'papers'.*paper"):
        suite_named("papers")


def test_local_data_by_task_and_by_folder(tmp_path: Path) -> None:
    (tmp_path / "arc_easy").mkdir()
    (tmp_path / "gsm8k").mkdir()
    tasks = tuple(TaskSettings(task=name) for name in ("arc_easy:5", "gsm8k", "copy", "lm-eval:sciq"))
    found = with_local_data(tasks, {"gsm8k": "own.jsonl", "sciq": "sciq.jsonl"}, tmp_path)
    assert [task.data for task in found] == [str(tmp_path / "arc_easy"), "own.jsonl", None, "sciq.jsonl"]
    assert [task.data for task in with_local_data(tasks, {"arc_easy:5": "five"})] == ["five", None, None, None]
    with pytest.raises(InputError, match="names piqa, .*arc_easy:5, gsm8k"):
        with_local_data(tasks, {"piqa": "x"})
    with pytest.raises(InputError, match="no such folder"):
        with_local_data(tasks, {}, tmp_path / "none")


def test_suites_stand_among_names_of_tasks(tmp_path: Path) -> None:
    (tmp_path / "arc_easy").mkdir()
    asked = asked_tasks("lm-eval:sciq, suite:quick", limit=120, files={"sciq": "s.jsonl"}, folder=tmp_path)
    assert [task.task for task in asked] == ["lm-eval:sciq", *(task.task for task in SUITES["quick"])]
    assert [task.limit for task in asked] == [120, 120, 120, 120, 100]
    assert (asked[0].data, asked[-1].data) == ("s.jsonl", str(tmp_path / "arc_easy"))
    assert asked_tasks("") == ()
    with pytest.raises(InputError, match="unknown suite 'quik'.*quick"):
        asked_tasks("copy,suite:quik")
