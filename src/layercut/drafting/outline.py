"""What ``layercut draft`` would ask: ``draft --dry-run``."""

from __future__ import annotations

from pathlib import Path

from layercut.drafting.settings import DraftSettings
from layercut.engine.handle import ModelHandle
from layercut.pruning.settings import GoalTasks, fitted_profile
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.selection.answers import ObjectiveTask
from layercut.selection.outline import planned_answers
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings

ASKED = 32  # selection items of each task that the original model answers
_OUTLINED = 60  # plans that a search tries, about
_ANSWER_BYTES = 4000  # of an answer on disk, with where some plans agree with it


def draft_outline(
    model: ModelSettings, settings: DraftSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``draft``, for ``--dry-run``; nothing is loaded or written. The search may end early.

    Raises:
        InputError: a model or task that cannot be used, or a profile that does not fit into the context.
    """
    handle = ModelHandle(model)
    fitted_profile(settings.serve, handle.context_length, "serve" in settings.model_fields_set)
    plans = ("read under plans, about", _OUTLINED) if settings.remove is None else ("read under the plan", 1)
    steps: list[PlannedStep] = []
    for part in goal_parts(goal, seed):
        chosen, shown = part.task.samples("selection", ASKED), part.task.samples("report", settings.items)
        steps += [
            planned_answers(handle, part, chosen, 1, "selection, the original"),
            planned_answers(handle, part, shown, 1, "report, the original"),
            PlannedStep(f"{part.label}, {plans[0]}", plans[1], "plan"),
        ]
        if settings.measured:
            written = part.task.samples("report", settings.measured)
            steps.append(planned_answers(handle, part, written, 2, "written alone and with the draft"))
    stored = handle.bytes_in_memory
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=_ANSWER_BYTES * sum(step.items for step in steps) + stored,
        memory_bytes=2 * stored + round(model.cache_gib * 2**30),
        folder=out,
        more=("steps are timed first, for some minutes",),
    )


def goal_parts(goal: GoalTasks, seed: int) -> list[ObjectiveTask]:
    """The tasks, under each readout that they are asked for."""
    return [part for task in goal.tasks for part in objective_parts(task, seed)]
