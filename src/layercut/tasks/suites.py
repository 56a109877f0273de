"""Suites: named lists of tasks and readouts, from the column ``suites`` of the table of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from layercut.errors import InputError, unknown_name
from layercut.known_tasks import TASKS
from layercut.settings import TaskSettings
from layercut.tasks import base_name_of_task, check_task

SUITE = "suite:"  # prefix of the name of a suite among names of tasks

SUITES: dict[str, tuple[TaskSettings, ...]] = {}
"""``builtin``: the generated tasks under both readouts, offline. ``quick``: short answers of the same and 100 items of
ARC-Easy. ``paper``: the seven classification tasks and the five generation tasks, in the chat format, of
arXiv:2602.01997; there the first 20 % of each classification task, here all of it or a limit. ``side_effects``: what
pruning and healing may break in silence, built in; ``needle_8k`` is asked by name."""
for _name, _row in TASKS.items():
    for _place in _row.suites:
        _task = TaskSettings(
            task=_name if _place.num_shots is None else f"{_name}:{_place.num_shots}",
            readouts=(_place.readout,) if _place.readout else None,
            limit=_place.limit,
        )
        SUITES[_place.suite] = (*SUITES.get(_place.suite, ()), _task)
SIDE_EFFECTS = tuple(task.task for task in SUITES["side_effects"])


def suite_named(
    name: str, *, limit: int | None = None, readouts: tuple[str, ...] | None = None
) -> tuple[TaskSettings, ...]:
    """The tasks of a suite, in order; ``limit`` lowers their number of items, ``readouts`` take the place of theirs."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return tuple(
        task.replace(
            limit=min((number for number in (task.limit, limit) if number is not None), default=None),
            readouts=readouts or task.readouts,
        )
        for task in SUITES[name]
    )


def asked_tasks(
    names: str,
    *,
    limit: int | None = None,
    readouts: tuple[str, ...] | None = None,
    files: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[TaskSettings, ...]:
    """The tasks that a list of names stands for, with their local data: ``arithmetic,lm-eval:sciq,suite:quick``.

    Raises InputError: no such suite, data for a task that is not asked for, or a folder that is none.
    """
    tasks: list[TaskSettings] = []
    for name in filter(None, map(str.strip, names.split(","))):
        if not name.startswith(SUITE):
            tasks.append(TaskSettings(task=name, readouts=readouts, limit=limit))
        else:
            tasks += suite_named(name.removeprefix(SUITE), limit=limit, readouts=readouts)
    return with_local_data(tuple(tasks), dict(files or {}), folder)


def with_local_data(
    tasks: tuple[TaskSettings, ...], files: dict[str, str], folder: Path | None = None
) -> tuple[TaskSettings, ...]:
    """The tasks with their local data: a task's own file, or its folder within ``folder``.

    A task without either keeps what it has. Names count without the number of examples: the data of ``arc_easy`` serves
    ``arc_easy:5``. Raises InputError: data for a task that is not asked for, or a folder that is none.
    """
    known = {name for task in tasks for name in (task.task, base_name_of_task(task.task))}
    for name in files:
        if name not in known:
            names = ", ".join(task.task for task in tasks) or "(none)"
            raise InputError(f"`data` names {name}, which is not among the tasks {names}.")
    if folder is not None and not folder.is_dir():
        raise InputError(f"`data_dir` {folder}: no such folder. Give one with a folder for each task, such as gsm8k.")

    def data_of(task: TaskSettings) -> str | None:
        base = base_name_of_task(task.task)
        in_folder = str(folder / base) if folder is not None and (folder / base).is_dir() else task.data
        return files.get(task.task, files.get(base, in_folder))

    return tuple(task if data_of(task) == task.data else task.replace(data=data_of(task)) for task in tasks)


def check_tasks(tasks: Iterable[TaskSettings]) -> None:
    """Refuse tasks, readouts and options that do not exist, before torch or lm-eval is imported."""
    for task in tasks:
        check_task(task.task, task.readouts, data=task.data, max_new_tokens=task.max_new_tokens)
