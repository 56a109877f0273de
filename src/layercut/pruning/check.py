"""What can be refused at once: names and depths, before torch or any weights are read."""

from __future__ import annotations

from layercut.models.depth import depth_of
from layercut.pruning.goal import GoalTasks
from layercut.pruning.settings import PruneSettings
from layercut.settings import ModelSettings
from layercut.study.checks import check_tasks


def check_prune(model: ModelSettings, settings: PruneSettings, goal: GoalTasks) -> None:
    """Refuse a goal, tasks or a depth that cannot be.

    Raises:
        InputError: an unknown task or model, a readout that a task does not have, or a depth that leaves no layer.
    """
    check_tasks(goal.tasks)
    if (num_layers := depth_of(model.model, model.revision)) is not None:
        settings.depth(num_layers)
