"""What ``layercut prune`` would ask and write: ``prune --dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.pruning.budget import CANDIDATES, HEALING_ITEMS, MOST, SELECTION_ITEMS, general_tasks
from layercut.pruning.confirm import checks_for
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import Profile, fitted
from layercut.pruning.run import FLAGS, refuse_early, settings_of_run, sizes_of
from layercut.pruning.settings import AUTO, NONE, SEAM, PruneSettings
from layercut.pruning.sizes import Sizes
from layercut.runs.directory import RunFolder
from layercut.runs.disk import size
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.runs.prune import BYTES
from layercut.selection.outline import planned
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings


def prune_outline(
    model: ModelSettings, settings: PruneSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``prune_model``, at most; nothing is loaded or written.

    The path may end early, testing stops at the first depth that fails, and a time gives fewer items than this.

    Raises:
        InputError: a model, task or depth that cannot be used, or what else the run would refuse: its folder, a task
            without items, a prompt that is too long.
    """
    handle = ModelHandle(model)
    sizes = sizes_of(handle, settings, lambda text: None)
    wanted = sizes.wanted(settings, settings.unit) if sizes else ()
    depth = settings.num_plans(wanted, handle.num_layers)
    profile = fitted(settings.serve, handle.context_length, "serve" in settings.model_fields_set)
    parts = [part for task in goal.tasks for part in objective_parts(task, seed)]
    refuse_early(handle, settings, profile, parts)
    RunFolder.check(out, settings_of_run(handle, settings, parts, seed), flags=FLAGS)
    selection, report = min(settings.items or SELECTION_ITEMS, SELECTION_ITEMS), settings.items or MOST
    steps: list[PlannedStep] = []
    texts = 0
    for part in parts:
        chosen, shown = part.task.samples("selection", selection), part.task.samples("report", report)
        plans, models = 1 + depth * CANDIDATES, depth + 1 + len(settings.versus)
        steps.append(planned(handle, part, chosen, plans, f"selection, up to {plans} plans"))
        steps.append(planned(handle, part, shown, models, f"report, up to {models} models"))
        texts = texts or min(steps[0].items, HEALING_ITEMS)
    if not settings.no_side_effects and (checks := checks_for(handle, seed)):
        asked = 2 * sum(len(check.samples) for check in checks)
        steps.append(PlannedStep("side effects, original model and checkpoint", asked))
    if not settings.goal_alone and handle.has_chat_template:
        for part in general_tasks():
            samples = part.task.samples("selection", part.limit)
            steps.append(planned(handle, part, samples, 1, "original model"))
            texts += min(len(samples), HEALING_ITEMS)
    if settings.heal in (AUTO, SEAM):
        steps.append(PlannedStep(f"repairs in closed form, up to {depth} plans", texts * depth, "text"))
    stored = handle.bytes_in_memory
    healed = 0 if settings.heal == NONE else 2 * depth * stored
    stays = ANSWER_BYTES * sum(step.items for step in steps) + stored
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=stays + healed,
        stays_bytes=stays,
        memory_bytes=stored * (3 if healed else 1) + round(model.cache_gib * 2**30),
        folder=out,
        more=() if sizes is None else (_sizes_in_words(sizes, wanted, settings.unit, profile),),
    )


def _sizes_in_words(sizes: Sizes, wanted: Sequence[float], unit: str, profile: Profile) -> str:
    """The sizes that may be tried: bytes, or shares of the seconds that a request takes."""
    if unit == BYTES:
        return f"sizes: {', '.join(f'-{less:.0%} {size(round((1 - less) * sizes.total))}' for less in wanted)}"
    times = ", ".join(f"-{less:.0%}" for less in wanted)
    return f"seconds of a request ({profile.words}), timed before the run chooses: {times}"
