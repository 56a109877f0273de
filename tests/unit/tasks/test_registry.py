from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from layercut.errors import InputError, MissingExtra
from layercut.tasks import TASKS, load_task
from layercut.tasks.few_shot import FewShotTask


def test_every_known_task_has_a_factory_and_a_line_about_it() -> None:
    for task in TASKS.values():
        module, _, function = task.factory.partition(":")
        assert function in vars(import_module(f"layercut.tasks.{module}"))
        assert 10 < len(task.summary) < 100 and "\n" not in task.summary


@pytest.mark.parametrize("name", ["arithmetic", "brackets", "copy", "chain_sum", "gsm_symbolic"])
def test_the_built_in_tasks_go_by_their_names(name: str) -> None:
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
def test_what_is_not_there_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(name, **options)


def own_task(*, seed: int) -> object:
    return load_task("copy", seed=seed)


def test_a_task_of_ones_own_goes_by_its_module() -> None:
    task = load_task(f"{__name__}:own_task", seed=2)
    assert isinstance(task, FewShotTask) and task.seed == 2


def test_tasks_are_imported_only_when_they_are_asked_for() -> None:
    code = (
        "import sys; from layercut.tasks import load_task\n"
        "load_task('copy').samples('report', 2)\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'reasoning_gym', 'datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "module"), [("arc_easy", "lm_eval"), ("gsm8k", "datasets")])
def test_a_missing_extra_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[lm-eval\]'"):
        load_task(name).settings()
