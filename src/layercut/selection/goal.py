"""The goal of a verb: the tasks that it works for, and general requests beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from layercut.base_settings import Names, Settings
from layercut.errors import InputError
from layercut.evidence.uses import named_use, tasks_for_use
from layercut.selection.answers import ObjectiveTask
from layercut.selection.select import objective_parts
from layercut.settings import TaskSettings
from layercut.tasks import TASKS, load_task, takes_option
from layercut.tasks.builtin.checked import CODE, GENERAL
from layercut.tasks.suites import asked_tasks, with_local_data

REQUESTS = 12  # general requests of each list


class GoalSettings(Settings):
    """The tasks that a verb works for."""

    use: str | None = Field(None, description="math, code, summarize, classify, chat, copy or all.")
    tasks: Names = Field((), description="Tasks in place of a use: names, or a .jsonl or .csv.")
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, of tasks where it can be chosen.")

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if (self.use is None) == (not self.tasks):
            raise InputError(
                "say what the model is for: `use` math, or `tasks` gsm8k,my.jsonl; "
                + ("one of the two." if self.use else "neither was given.")
            )
        return self


class GoalTasks(NamedTuple):
    """The tasks, and what people should know of them."""

    tasks: tuple[TaskSettings, ...]
    note: str  # says that the use is judged by a proxy; empty where it is not

    def parts(self, seed: int) -> list[ObjectiveTask]:
        """The tasks, under each readout that they are asked for."""
        return [part for task in self.tasks for part in objective_parts(task, seed)]


def goal_tasks(settings: GoalSettings, data: Mapping[str, str] | None = None, folder: Path | None = None) -> GoalTasks:
    """The tasks that decide. Nothing is loaded.

    Args:
        data: local files of tasks; a use is judged by its benchmarks where their data is given.
        folder: holds a folder with local data for each task.

    Raises:
        InputError: an unknown use, data for a task that is not asked for, or no such folder.
    """
    files, longest = dict(data or {}), settings.max_new_tokens
    if settings.use is None:
        named = asked_tasks(",".join(settings.tasks), files=files, folder=folder)
        return GoalTasks(tuple(task.replace(max_new_tokens=longest) for task in named), "")
    local = [name for name in TASKS if folder is not None and (folder / name).is_dir()]
    of_use = tasks_for_use(settings.use, data=(*files, *local))
    tasks = tuple(
        TaskSettings(
            task=task, readouts=(readout,), max_new_tokens=longest if takes_option(task, "max_new_tokens") else None
        )
        for task, readout in of_use
    )
    note = named_use(settings.use).note([task for task, _ in of_use])
    return GoalTasks(with_local_data(tasks, files, folder), note)


def general_tasks(limit: int = REQUESTS) -> tuple[ObjectiveTask, ...]:
    """General requests, which count with the goal's tasks where channels are chosen and plans are healed."""
    return tuple(ObjectiveTask(task=load_task(name), readout="short", limit=limit) for name in (GENERAL, CODE))
