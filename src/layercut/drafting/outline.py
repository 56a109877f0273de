"""Estimate what ``layercut draft`` would take: answers, passes over them, and answers that are written both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from layercut.drafting.job import ASKED, FIRST, SEARCHED, TOKENS
from layercut.drafting.search import TRIED, WIDTHS
from layercut.drafting.settings import DraftSettings
from layercut.engine.cost import CostEstimate, Step, measured_speed, weight_counts
from layercut.engine.handle import ModelHandle
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import fitted
from layercut.selection.estimate import SHARED, asking_step
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings
from layercut.text.counting import counted

_PLANS = 60
"""Plans that a search tries, about."""
_RECORD_BYTES = 4000
"""Of an answer on disk, with where some plans agree with it."""


def draft_estimate(
    model: ModelSettings, settings: DraftSettings, goal: GoalTasks | None, *, out: Path, seed: int = 0
) -> CostEstimate:
    """The cost of ``draft``; nothing is loaded or written.

    The search may end early: the lower end of the time is that of the widths and a first round of layers.

    Raises:
        InputError: a model or task that cannot be used, or a profile that does not fit into the context.
    """
    handle = ModelHandle(model)
    if settings.draft is not None:
        ModelHandle(model.replace(model=settings.draft, revision=None))  # refused where there is none
    fitted(settings.serve, handle.weightless.context_length, "serve" in settings.model_fields_set)
    whole = handle.num_parameters(handle.plan())
    searches = settings.remove is None and settings.draft is None
    plans = _PLANS if searches else 1
    steps: list[Step] = []
    for part in [part for task in (goal.tasks if goal else ()) for part in objective_parts(task, seed)]:
        chosen = part.task.samples("selection", ASKED)
        steps.append(asking_step(handle, part, chosen, 1, 1.0, "selection, the original"))
        shown = part.task.samples("report", settings.items)
        steps.append(asking_step(handle, part, shown, 1, 1.0, "report, the original"))
        prompts = steps[-2].prompt_tokens // max(steps[-2].items, 1) * (SEARCHED // TOKENS)
        steps.append(
            Step(
                name=f"{part.label}, read under {'about ' * searches}{counted(plans, 'plan')}",
                items=plans,
                unit="plan",
                parameters=whole,
                prompt_tokens=plans * (SEARCHED + prompts) + searches * handle.num_layers * FIRST,
                least=SHARED * (len(WIDTHS) + TRIED) / _PLANS if searches else 1.0,
            )
        )
        if settings.times is None and settings.measured:
            written = part.task.samples("report", settings.measured)
            alone = asking_step(handle, part, written, 2, 1.0, "written alone and with the draft")
            steps.append(replace(alone, batch_size=1))
    stored, cache = weight_counts(handle).bytes_in_memory, round(model.cache_gib * 2**30)
    answers = _RECORD_BYTES * sum(step.items for step in steps)
    return CostEstimate(
        steps=tuple(steps),
        speed=measured_speed(model.device, handle.dtype),
        disk_bytes=answers + stored,
        stays_bytes=answers + stored,
        memory_bytes=2 * stored + cache,
        folder=out,
        more=("steps are timed first, for some minutes",) if settings.times is None else (),
    )
