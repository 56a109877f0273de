"""What a search or sweep would ask: ``select --dry-run`` and ``sweep --dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.engine.rows import check_longest
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.selection import criterion_row
from layercut.selection.base import whole_numbers
from layercut.selection.select import SelectionRequest
from layercut.selection.specs import parse_protected
from layercut.selection.task_criteria import TRACES
from layercut.settings import GENERATED, ModelSettings
from layercut.tasks.base import Sample, is_generated
from layercut.tasks.cells import Cell


def selection_outline(model: ModelSettings, request: SelectionRequest, *, out: Path) -> Outline:
    """Choosing layers; InputError for a model, criterion, task or layer that is unusable."""
    handle, criterion, settings = ModelHandle(model), request.criterion, request.settings
    assert criterion is not None, "checked"
    row, calibration = criterion_row(criterion), request.calibration
    num_remove, candidates = request.num_remove(handle.num_layers), handle.num_layers - row.protects_first_layer
    if request.protect:
        candidates = handle.num_layers - len(parse_protected(request.protect, handle.num_layers))
    greedy = count_greedy_plans(candidates, num_remove)
    steps: list[PlannedStep] = []
    if row.needs_model and row.needs_text:
        if calibration.source == GENERATED:
            steps.append(PlannedStep("calibration text that the model writes", calibration.num_texts, "text"))
        passes = 1
        if criterion == "perplexity":
            passes = (greedy if settings.get("search", "greedy") == "greedy" else candidates) + 1
        steps.append(PlannedStep(f"{criterion} on the text, at most", passes * calibration.num_texts, "text"))
    for part in request.parts() if row.needs_model else ():
        samples, plans = part.task.samples("selection", part.limit), greedy
        if criterion == "trace_damage":
            steps += _traces(handle, part, samples, greedy if settings.get("search") == "greedy" else candidates)
            continue
        if criterion == "task_accuracy" and "shortlist" in settings:
            numbers = whole_numbers(criterion, settings, shortlist=1, traces=TRACES)
            plans = min(greedy, num_remove * numbers["shortlist"])
            steps += _traces(handle, part, samples[: numbers["traces"]], greedy)[1:]
        steps.append(planned_answers(handle, part, samples, plans + 1, f"at most {plans + 1} plans"))
        if request.held_out != 0:
            held_out = part.task.samples("selection", len(samples) + (request.held_out or len(samples)))[len(samples) :]
            if held_out:
                steps.append(planned_answers(handle, part, held_out, 2, "held out, uncut and cut"))
    return outline_of_steps(handle, steps, out, loads=row.needs_model)


def count_greedy_plans(candidates: int, num_remove: int) -> int:
    """Plans of a greedy search, without the original model.

    >>> count_greedy_plans(29, 2)
    57
    """
    return num_remove * candidates - num_remove * (num_remove - 1) // 2


def planned_answers(handle: ModelHandle, part: Cell, samples: Sequence[Sample], plans: int, what: str) -> PlannedStep:
    """Answers to items under plans. Raises InputError: a task without an item for this, or too long a prompt."""
    if not samples:
        raise InputError(f"{part.label} has no item for this: {what}; give more rows with different prompts.")
    check_longest(handle, (part.task.request(sample, part.readout) for sample in samples))
    return PlannedStep(f"{part.label}, {what}", plans * len(samples))


def _traces(handle: ModelHandle, part: Cell, samples: Sequence[Sample], passes: int) -> list[PlannedStep]:
    if not is_generated(part.readout):
        return []
    uncut = planned_answers(handle, part, samples, 1, "uncut")
    return [uncut, PlannedStep(f"{part.label}, right answers read without each layer, at most", passes * len(samples))]


def outline_of_steps(handle: ModelHandle, steps: Sequence[PlannedStep], folder: Path, *, loads: bool = True) -> Outline:
    """The outline of these steps; ``loads``: the model comes into memory."""
    cache = handle.settings.cache_gib * 2**30 if steps and ENGINES[handle.settings.engine].has_cache else 0
    weights = handle.bytes_in_memory if loads else 0
    return Outline(
        steps=tuple(steps),
        disk_bytes=ANSWER_BYTES * sum(step.items for step in steps),
        memory_bytes=weights + round(cache),
        folder=folder,
    )
