"""Settings of ``layercut draft``, and what it would ask: ``draft --dry-run``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from layercut.engine.handle import ModelHandle
from layercut.pruning.settings import GoalSettings, GoalTasks
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.selection.answers import ObjectiveTask
from layercut.selection.select import objective_parts, planned_answers
from layercut.selection.specs import Removed
from layercut.settings import ModelSettings

ASKED = 32  # selection items of each task that the original model answers
_OUTLINED = 60  # plans that a search tries, about
_ANSWER_BYTES = 4000  # of an answer on disk, with where some plans agree with it


class DraftSettings(GoalSettings):
    """The use of a model that is to write faster."""

    use: str | None = Field(
        None, description="What the model writes: math, code, summarize, chat or copy; names tasks, as in prune."
    )
    remove: Removed | None = Field(None, description="A plan to measure, in place of a search: 9-12, or a plan.json.")
    items: int = Field(
        16, ge=1, description="Report items of each task that are answered with and without the draft, and timed."
    )
    window: int = Field(8, ge=1, le=32, description="Most tokens that a draft may propose at once.")


def goal_parts(goal: GoalTasks, seed: int) -> list[ObjectiveTask]:
    """The tasks, under each readout that they are asked for."""
    return [part for task in goal.tasks for part in objective_parts(task, seed)]


def draft_outline(
    model: ModelSettings, settings: DraftSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``draft``, for ``--dry-run``; nothing is loaded or written. The search may end early."""
    handle = ModelHandle(model)
    steps: list[PlannedStep] = []
    for part in goal_parts(goal, seed):
        chosen, shown = part.task.samples("selection", ASKED), part.task.samples("report", settings.items)
        steps += [
            planned_answers(handle, part, chosen, 1, "selection, the original"),
            planned_answers(handle, part, shown, 3, "report: the original, alone and with the draft"),
        ]
    plans = f"answers are read under about {_OUTLINED} plans" if settings.remove is None else "answers are read"
    stored = handle.bytes_in_memory
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=_ANSWER_BYTES * sum(step.items for step in steps) + stored,
        memory_bytes=2 * stored + round(model.cache_gib * 2**30),
        folder=out,
        more=(f"steps are timed first, for some minutes; {plans}",),
    )
