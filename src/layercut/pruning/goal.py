"""The tasks whose scores must be kept: those of a use or those that were named, each read out in one way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from layercut.evidence.uses import named_use, tasks_for
from layercut.settings import TaskSettings
from layercut.tasks import TASKS, takes
from layercut.tasks.suites import asked_tasks, with_data


class Named(Protocol):
    """Settings that name tasks."""

    @property
    def use(self) -> str | None: ...

    @property
    def tasks(self) -> tuple[str, ...]: ...

    @property
    def max_new_tokens(self) -> int | None: ...


class GoalTasks(NamedTuple):
    """The tasks, and what people should know of them."""

    tasks: tuple[TaskSettings, ...]
    note: str  # says that the use is judged by a proxy; empty where it is not


def goal_tasks(settings: Named, data: Mapping[str, str] | None = None, folder: Path | None = None) -> GoalTasks:
    """The tasks that decide. Nothing is loaded.

    Args:
        data: local files of tasks; a use is judged by its benchmarks where their data is given.
        folder: holds a folder with local data for each task.

    Raises:
        InputError: an unknown use, data for a task that is not asked for, or no such folder.
    """
    files, longest = dict(data or {}), settings.max_new_tokens
    if settings.use is None:
        asked = asked_tasks(",".join(settings.tasks), files=files, folder=folder, first_readouts=True)
        return GoalTasks(tuple(task.replace(max_new_tokens=longest) for task in asked), "")
    there = [name for name in TASKS if folder is not None and (folder / name).is_dir()]
    of_use = tasks_for(settings.use, data=(*files, *there))
    tasks = tuple(
        TaskSettings(
            task=task,
            readouts=(readout,),
            max_new_tokens=longest if takes(task, "max_new_tokens") else None,
        )
        for task, readout in of_use
    )
    note = named_use(settings.use).note([task for task, _ in of_use])
    return GoalTasks(with_data(tasks, files, folder), note)
