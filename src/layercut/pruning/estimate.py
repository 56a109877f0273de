"""Estimate what ``layercut prune`` would take: items, tokens, a range of time, disk and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layercut.engine.cost import CostEstimate, Step, measured_speed, weight_counts
from layercut.engine.handle import ModelHandle
from layercut.healing.estimate import seam_parameters
from layercut.pruning.budget import CANDIDATES, FEWEST, MOST, SELECTION_ITEMS, report_items_in, selection_items_in
from layercut.pruning.goal import GoalTasks
from layercut.pruning.healing import SEAM
from layercut.pruning.job import FLAGS, refuse_early, settings_of_run, size_unit, units_of
from layercut.pruning.path import HEALING_ITEMS, general_tasks
from layercut.pruning.profile import Profile, fitted
from layercut.pruning.settings import AUTO, LAYER, NONE, PruneSettings
from layercut.pruning.side_effects import checks_for
from layercut.pruning.sizes import Sizes
from layercut.runs.directory import RunFolder
from layercut.runs.disk import size
from layercut.runs.prune import BYTES
from layercut.selection.answers import ObjectiveTask
from layercut.selection.estimate import asking_step
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings

_RECORD_BYTES = 1000
"""Bytes of an answer on disk, with its text."""


def prune_estimate(
    model: ModelSettings, settings: PruneSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> CostEstimate:
    """The cost of ``prune_model``; nothing is loaded or written.

    The path may end early and testing stops at the first depth that fails: the lower end of the time is that of one
    depth, the upper end of all.

    Raises:
        InputError: a model, task or depth that cannot be used, or what else the run would refuse: its folder, a task
            without items, a prompt that is too long.
    """
    handle = ModelHandle(model)
    units = units_of(handle, settings, lambda text: None)
    sizes = None if units == LAYER else Sizes(handle)
    unit = size_unit(settings)
    wanted = () if sizes is None else sizes.wanted(settings, unit)
    depth = settings.num_plans(wanted, handle.num_layers)
    profile = fitted(settings.serve, handle.weightless.context_length, "serve" in settings.model_fields_set)
    parts = [part for task in goal.tasks for part in objective_parts(task, seed)]
    refuse_early(handle, settings, profile, parts)
    RunFolder.check(out, settings_of_run(handle, settings, parts, seed), flags=FLAGS)
    speed = measured_speed(model.device, handle.dtype)
    selection, report = settings.items or SELECTION_ITEMS, settings.items or MOST
    selection = min(selection, SELECTION_ITEMS)
    if (seconds := settings.seconds) is not None:
        probe = [asking_step(handle, part, part.task.samples("selection", FEWEST), 1, 1.0, "") for part in parts]
        each = sum(sum(step.seconds(speed)) / 2 / max(step.items, 1) for step in probe)
        selection = selection_items_in(seconds, each, depth)
        report = report_items_in(0.35 * seconds, each, depth + 1)
    steps: list[Step] = []
    for part in parts:
        chosen, shown = part.task.samples("selection", selection), part.task.samples("report", report)
        plans = 1 + depth * CANDIDATES
        steps.append(asking_step(handle, part, chosen, plans, 2 / plans, f"selection, up to {plans} plans"))
        models = depth + 1 + len(settings.versus)
        what = f"report, up to {models} models"
        steps.append(asking_step(handle, part, shown, models, (2 + len(settings.versus)) / models, what))
    if not settings.no_side_effects:
        steps += _side_effects(handle, seed)
    stored = weight_counts(handle).bytes_in_memory
    sources = steps[:1]
    if not settings.goal_alone and handle.weightless.has_chat_template:
        for part in general_tasks():
            samples = part.task.samples("selection", part.limit)
            sources.append(asking_step(handle, part, samples, 1, 1.0, "original model"))
        steps += sources[1:]
    if settings.heal in (AUTO, SEAM):
        steps.append(_seams(handle, sources, depth, every=units != LAYER))
    healed = 0 if settings.heal == NONE else 2 * depth * stored
    answers = _RECORD_BYTES * sum(step.items for step in steps)
    return CostEstimate(
        steps=tuple(steps),
        speed=speed,
        disk_bytes=answers + stored + healed,
        stays_bytes=answers + stored,
        memory_bytes=stored * (3 if healed else 1) + round(model.cache_gib * 2**30),
        folder=out,
        more=() if sizes is None else (_forecast(sizes, wanted, unit, profile),),
    )


def _side_effects(handle: ModelHandle, seed: int) -> list[Step]:
    """Answers of the original model and the checkpoint to all checks, if there is one; nothing where none fits."""
    each = [
        asking_step(handle, ObjectiveTask(task=cell.task, readout=cell.readout), cell.samples, 2, 0.0, "")
        for cell in checks_for(handle.weightless, seed)
    ]
    if not each:
        return []
    fewest, most = (sum(step.new_tokens[end] for step in each) for end in (0, 1))
    whole = replace(each[0], items=sum(step.items for step in each), new_tokens=(fewest, most))
    read = sum(step.prompt_tokens for step in each)
    return [replace(whole, name="side effects, original model and checkpoint", prompt_tokens=read)]


def _forecast(sizes: Sizes, wanted: Sequence[float], unit: str, profile: Profile) -> str:
    """Bytes and speed of every size, in words."""
    gone = {one: one if unit == BYTES else sizes.bytes_for(one) for one in wanted}
    each = [
        f"-{one:.0%} {size(round((1 - share) * sizes.total))} x {sizes.forecast(share):.2f}"
        for one, share in gone.items()
    ]
    return (
        f"{'sizes' if unit == BYTES else 'times'}: {', '.join(each)}; speed of a request ({profile.words}) by the "
        f"weights that a token passes through, and the run times it{'' if unit == BYTES else ' before it chooses'}"
    )


def _seams(handle: ModelHandle, sources: Sequence[Step], depth: int, *, every: bool) -> Step:
    """Repairs in closed form of one plan to all: of a removed layer each, or of every layer.

    Args:
        sources: the answers of one task, and those to general requests; they say how long texts are.
    """
    weights = weight_counts(handle)
    texts = [min(one.items, HEALING_ITEMS) for one in sources]
    each = [(one.prompt_tokens + sum(one.new_tokens) / 2) / max(one.items, 1) for one in sources]
    tokens = round(sum(number * length for number, length in zip(texts, each, strict=True)))
    width, places = (weights.intermediate_size, weights.num_layers) if every else (weights.hidden_size, depth)
    return Step(
        name=f"repairs in closed form, up to {depth} plans",
        items=sum(texts) * depth,
        unit="text",
        parameters=seam_parameters(weights, weights, width, places, tokens),
        prompt_tokens=tokens * depth,
        least=1 / depth,
    )
