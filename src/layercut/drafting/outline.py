"""What ``layercut draft`` would ask: ``draft --dry-run``."""

from __future__ import annotations

from pathlib import Path

from layercut.drafting.settings import ASKED, DraftSettings
from layercut.engine.handle import ModelHandle
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import fitted
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.selection.outline import planned
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings

_PLANS = 60  # plans that a search tries, about
_ANSWER_BYTES = 4000  # of an answer on disk, with where some plans agree with it


def draft_outline(
    model: ModelSettings, settings: DraftSettings, goal: GoalTasks | None, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``draft``; nothing is loaded or written. The search may end early.

    Raises:
        InputError: a model or task that cannot be used, or a profile that does not fit into the context.
    """
    handle = ModelHandle(model)
    if settings.draft is not None:
        ModelHandle(model.replace(model=settings.draft, revision=None))  # refused where there is none
    fitted(settings.serve, handle.context_length, "serve" in settings.model_fields_set)
    searches = settings.remove is None and settings.draft is None
    steps: list[PlannedStep] = []
    for part in [part for task in (goal.tasks if goal else ()) for part in objective_parts(task, seed)]:
        chosen, shown = part.task.samples("selection", ASKED), part.task.samples("report", settings.items)
        steps.append(planned(handle, part, chosen, 1, "selection, the original"))
        steps.append(planned(handle, part, shown, 1, "report, the original"))
        steps.append(
            PlannedStep(
                f"{part.label}, read under plans, about" if searches else f"{part.label}, read under the plan",
                _PLANS if searches else 1,
                "plan",
            )
        )
        if settings.times is None and settings.measured:
            written = part.task.samples("report", settings.measured)
            steps.append(planned(handle, part, written, 2, "written alone and with the draft"))
    stored = handle.bytes_in_memory
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=_ANSWER_BYTES * sum(step.items for step in steps) + stored,
        memory_bytes=2 * stored + round(model.cache_gib * 2**30),
        folder=out,
        more=("steps are timed first, for some minutes",) if settings.times is None else (),
    )
