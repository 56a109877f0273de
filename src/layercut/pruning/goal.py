"""What must be kept: the tasks of a use or those that were named, each read out in one way."""

from __future__ import annotations

from typing import NamedTuple

from layercut.pruning.settings import PruneSettings
from layercut.settings import TaskSettings
from layercut.tasks.suites import asked_tasks


class GoalTasks(NamedTuple):
    """The tasks, and what people should know of them."""

    tasks: tuple[TaskSettings, ...]
    note: str
    """Which tasks only stand in for the use; empty where none does."""


def goal_tasks(settings: PruneSettings) -> GoalTasks:
    """The tasks that decide. Nothing is loaded.

    Raises:
        InputError: an unknown use.
    """
    if settings.use is None:
        return GoalTasks(asked_tasks(",".join(settings.tasks), first_readouts=True), "")
    return GoalTasks(_SHIM[settings.use], "")


_SHIM = {
    "math": (
        TaskSettings(task="arithmetic", readouts=("short",)),
        TaskSettings(task="gsm_symbolic", readouts=("chain",)),
    ),
    "copy": (TaskSettings(task="copy", readouts=("short",)),),
}
