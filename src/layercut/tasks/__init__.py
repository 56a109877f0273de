"""Tasks by name. A new one is a file here and a line in TASKS; it is imported when it is first asked for."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError, unknown

if TYPE_CHECKING:
    from layercut.tasks.base import Task

LM_EVAL = "lm-eval:"
"""What stands before the name of a task of the LM Evaluation Harness."""


class KnownTask(NamedTuple):
    """One line of the list of tasks."""

    factory: str
    """``module:function``; the function takes the options that the task has and returns it."""
    summary: str


TASKS = {
    "arithmetic": KnownTask(
        "layercut.tasks.arithmetic:arithmetic", "sums, differences and products of one and two digits (built in)"
    ),
    "brackets": KnownTask("layercut.tasks.brackets:brackets", "close what is open: ( [ { (built in)"),
    "copy": KnownTask("layercut.tasks.copying:copying", "repeat a list of four to eight words (built in)"),
    "gsm_symbolic": KnownTask(
        "layercut.tasks.gsm_symbolic:gsm_symbolic", "grade-school word problems made from templates (built in)"
    ),
    "gsm8k": KnownTask("layercut.tasks.gsm8k:gsm8k", "grade-school word problems (openai/gsm8k, or a local copy)"),
    "humaneval": KnownTask(
        "layercut.tasks.humaneval:humaneval", "complete a Python function (openai/openai_humaneval, or a local copy)"
    ),
    "humaneval_plus": KnownTask(
        "layercut.tasks.humaneval:humaneval_plus", "the same, many more tests (evalplus/humanevalplus, or a local copy)"
    ),
    "mbpp": KnownTask(
        "layercut.tasks.mbpp:mbpp", "short Python problems (google-research-datasets/mbpp, or a local copy)"
    ),
    "mbpp_plus": KnownTask(
        "layercut.tasks.mbpp:mbpp_plus", "the same, many more tests (evalplus/mbppplus, or a local copy)"
    ),
    "arc_easy": KnownTask(
        "layercut.tasks.multiple_choice:arc_easy",
        "science questions with choices, as lm-eval asks them (allenai/ai2_arc, or a local copy)",
    ),
}


def known_tasks() -> dict[str, str]:
    """Every task's name with a line about it."""
    return {name: task.summary for name, task in TASKS.items()}


def load_task(name: str, *, data: str | None = None, seed: int = 0, max_new_tokens: int | None = None) -> Task:
    """A task by name.

    Args:
        name: one of ``known_tasks()``; ``lm-eval:NAME`` for a multiple-choice task of the LM Evaluation Harness; or
            ``my.module:function`` for your own.
        data: a local file or folder in place of the data set on the hub, for tasks that have one.
        seed: of the generator, for tasks whose problems are made; others have no use for it.
        max_new_tokens: longest answer, for tasks where it can be chosen.

    Raises:
        InputError: no such task, an option it does not have, or data that cannot be used.
        MissingExtra: the task needs an optional part that is not installed.
    """
    if name.startswith(LM_EVAL):
        from layercut.tasks.multiple_choice import lm_eval_task

        factory: Any = lm_eval_task
        options: dict[str, Any] = {"name": name.removeprefix(LM_EVAL)}
    else:
        factory, options = _resolve(name), {}
    takes = inspect.signature(factory).parameters
    given = {"data": data, "max_new_tokens": max_new_tokens}
    for option, value in given.items():
        if value is not None and option not in takes:
            raise InputError(f"the task {name} takes no {option}, but {option} {value!r} was given; leave it out.")
    options |= {option: value for option, value in given.items() if value is not None}
    if "seed" in takes:
        options["seed"] = seed
    task: Task = factory(**options)
    return task


def _resolve(name: str) -> Any:
    if name in TASKS:
        path = TASKS[name].factory
    elif ":" in name:
        path = name
    else:
        hint = f"Or {LM_EVAL}NAME for a multiple-choice task of lm-eval, or module:function for your own."
        raise unknown("task", name, TASKS, hint)
    module, _, function = path.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        if name in TASKS:
            raise
        raise InputError(f"the task {name} cannot be imported ({error}); write module:function.") from error
