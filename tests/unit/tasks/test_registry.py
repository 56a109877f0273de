"""Tasks are found by their names, and suites name tasks and readouts that there are."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from layercut.errors import InputError, MissingExtra
from layercut.settings import TaskSettings
from layercut.tasks import TASKS, base_name_of_task, load_task
from layercut.tasks.few_shot import FewShotTask
from layercut.tasks.suites import SUITES, asked_tasks, suite_named, with_local_data


def test_every_known_task_has_a_factory_a_line_about_it_and_goes_by_its_name():
    for task in TASKS.values():
        module, _, function = task.factory.partition(":")
        assert function in vars(import_module(f"layercut.tasks.{module}"))
        assert 10 < len(task.summary) < 100 and "\n" not in task.summary
    for name in ("arithmetic", "brackets", "copy", "chain_sum", "gsm_symbolic"):
        task = load_task(name, seed=4)
        assert task.name == name and task.settings()["seed"] == 4 and task.settings()["version"] == task.version


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("aritmetic", {}, "unknown task 'aritmetic'.*Known: arc_challenge"),
        ("arithmetic", {"data": "x.jsonl"}, "data 'x.jsonl'"),
        ("copy", {"max_new_tokens": 7}, "no max_new_tokens"),
        ("no.such.module:task", {}, "cannot be imported"),
        (f"{__name__}:no_such_task", {}, "cannot be imported"),
    ],
)
def test_what_is_not_there_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        load_task(name, **options)


def own_task(*, seed: int) -> object:
    return load_task("copy", seed=seed)


def test_a_task_of_ones_own_goes_by_its_module():
    task = load_task(f"{__name__}:own_task", seed=2)
    assert isinstance(task, FewShotTask) and task.seed == 2


def test_tasks_are_imported_only_when_they_are_asked_for():
    code = (
        "import sys; from layercut.tasks import load_task\n"
        "load_task('copy').samples('report', 2)\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'reasoning_gym', 'datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "module"), [("arc_easy", "lm_eval"), ("gsm8k", "datasets")])
def test_a_missing_extra_is_named(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[lm-eval\]'"):
        load_task(name).settings()


def test_suites_name_tasks_and_readouts_that_there_are():
    named = {base_name_of_task(task.task) for tasks in SUITES.values() for task in tasks}
    assert named <= set(TASKS)
    assert [task.readouts for task in suite_named("paper")] == [*[("rank",)] * 7, *[None] * 5]
    assert list(SUITES) == ["builtin", "quick", "paper", "side_effects"]
    assert [task.task for task in suite_named("paper")][:2] == ["mmlu:5", "arc_challenge:5"]
    assert [load_task(task.task).readouts for task in suite_named("builtin") if task.readouts is None] == [
        *[("short", "rank")] * 3, ("chain", "rank"),
    ]  # fmt: skip
    assert {task.limit for task in suite_named("builtin")} == {None}
    assert [task.limit for task in suite_named("quick", limit=200)] == [200, 200, 200, 100]
    assert [task.limit for task in suite_named("quick", limit=9)] == [9] * 4
    assert {task.readouts for task in suite_named("builtin", readouts=("rank",))} == {("rank",)}
    with pytest.raises(InputError, match="unknown suite 'papers'.*paper"):
        suite_named("papers")


def test_suites_find_local_data_and_stand_among_names_of_tasks(tmp_path):
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
    asked = asked_tasks("lm-eval:sciq, suite:quick", limit=120, files={"sciq": "s.jsonl"}, folder=tmp_path)
    assert [task.task for task in asked] == ["lm-eval:sciq", *(task.task for task in SUITES["quick"])]
    assert [task.limit for task in asked] == [120, 120, 120, 120, 100]
    assert (asked[0].data, asked[-1].data) == ("s.jsonl", str(tmp_path / "arc_easy"))
    assert asked_tasks("") == ()
    with pytest.raises(InputError, match="unknown suite 'quik'.*quick"):
        asked_tasks("copy,suite:quik")
