"""Estimate the cost of a search or sweep before it runs: ``select --dry-run`` and ``sweep --dry-run``.

Each criterion has a rule for its number of plans; the tasks give the items, and the first prompts and right answers the
tokens. The engine ``shared`` runs once what plans share, and racing stops candidates: the lower end of the time allows
for both, the upper end counts everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.engine.base import GenerationRequest
from layercut.engine.cost import (
    CHARACTERS_PER_TOKEN,
    TRAINING,
    CostEstimate,
    Step,
    measured_speed,
    prompt_tokens,
    weight_counts,
)
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import check_longest
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.selection import criterion_row
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import whole_numbers
from layercut.selection.protect import parse_protected
from layercut.selection.task_accuracy import TRACES
from layercut.settings import GENERATED, CalibrationSettings, ModelSettings
from layercut.tasks.base import Sample, generates

SHARED = 0.5
"""Least share of the work that the shared engine does for plans without one layer each."""
RACED = 0.25
"""Least share of the answers that a race needs."""
_NUM_COUNTED = 32
"""Items whose prompts are counted; their mean holds for the others."""
_RECORD_BYTES = 400
"""Bytes of an answer in the journal, without its text."""


def sweep_estimate(
    handle: ModelHandle, asked_of: Sequence[tuple[ObjectiveTask, Sequence[Sample]]], num_layers: int, folder: Path
) -> CostEstimate:
    """The cost of ``num_layers`` layers skipped, each alone, and the original model."""
    plans, least = num_layers + 1, _shared(handle)
    steps = [asking_step(handle, part, samples, plans, least, f"under {plans} plans") for part, samples in asked_of]
    return _estimate(handle, steps, folder)


def selection_estimate(
    model: ModelSettings,
    *,
    criterion: str,
    num_remove: int,
    parts: Sequence[ObjectiveTask],
    calibration: CalibrationSettings,
    protect: str | None,
    settings: Mapping[str, Any],
    race: str,
    num_held_out: int | None,
    out: Path,
) -> CostEstimate:
    """The cost of choosing ``num_remove`` layers; InputError for a model, criterion, task or layer that is unusable."""
    row, handle = criterion_row(criterion), ModelHandle(model)
    protected = len(parse_protected(protect, handle.num_layers)) if protect else int(row.protects_first_layer)
    candidates = handle.num_layers - protected
    steps: list[Step] = []
    if row.needs_model and row.needs_text:
        steps += _of_text(handle, criterion, candidates, num_remove, calibration, settings)
    for part in parts if row.needs_model else ():
        samples = part.task.samples("selection", part.limit)
        steps += _of_task(handle, criterion, part, samples, candidates, num_remove, settings, race)
        if num_held_out != 0 and criterion != "trace_damage":
            held_out = part.task.samples("selection", len(samples) + (num_held_out or len(samples)))[len(samples) :]
            if held_out:
                steps.append(asking_step(handle, part, held_out, 2, 1.0, "held out, uncut and cut"))
    return _estimate(handle, steps, out, loads=row.needs_model)


def num_greedy(candidates: int, num_remove: int) -> int:
    """Plans of a greedy search, without the original model.

    >>> num_greedy(29, 2)
    57
    """
    return num_remove * candidates - num_remove * (num_remove - 1) // 2


def _of_text(
    handle: ModelHandle,
    criterion: str,
    candidates: int,
    num_remove: int,
    calibration: CalibrationSettings,
    settings: Mapping[str, Any],
) -> list[Step]:
    """The calibration text, and the criterion's passes over it."""
    num_texts = calibration.num_texts
    tokens, steps = num_texts * calibration.max_tokens, []
    common: dict[str, Any] = {
        "unit": "text",
        "parameters": handle.num_parameters(handle.plan()),
        "batch_size": handle.settings.batch_size,
    }
    if calibration.source == GENERATED:
        name, new = "calibration text", (num_texts, tokens)
        steps.append(Step(name=name, items=num_texts, prompt_tokens=num_texts, new_tokens=new, **common))
    passes = 1
    if criterion == "perplexity":
        is_greedy = settings.get("search", "greedy") == "greedy"
        passes = (num_greedy(candidates, num_remove) if is_greedy else candidates) + 1
        passes *= 2 if settings.get("form") == "kl" else 1
    steps.append(
        Step(
            name=f"{criterion} on the text, at most",
            items=passes * num_texts,
            prompt_tokens=passes * tokens,
            cost=TRAINING if criterion == "taylor" else 1.0,
            least=(_shared(handle) if passes > 1 else 1.0) / num_texts,
            **common,
        )
    )
    return steps


def _of_task(
    handle: ModelHandle,
    criterion: str,
    part: ObjectiveTask,
    samples: Sequence[Sample],
    candidates: int,
    num_remove: int,
    settings: Mapping[str, Any],
    race: str,
) -> list[Step]:
    """One task's share of a search by task scores."""
    shared = _shared(handle)
    if criterion == "trace_damage":
        passes = num_greedy(candidates, num_remove) if settings.get("search") == "greedy" else candidates
        return _reading(handle, part, samples, passes)
    plans = num_greedy(candidates, num_remove)
    least = shared * (RACED if race != "off" else 1.0)
    if criterion == "task_accuracy" and "shortlist" in settings:
        numbers = whole_numbers(criterion, settings, shortlist=1, traces=TRACES)
        passes, plans = plans, min(plans, num_remove * numbers["shortlist"])
        asking = asking_step(handle, part, samples, plans + 1, least, f"under at most {plans + 1} plans")
        return [*_reading(handle, part, samples[: numbers["traces"]], passes)[1:], asking]
    return [asking_step(handle, part, samples, plans + 1, least, f"under at most {plans + 1} plans")]


def _reading(handle: ModelHandle, part: ObjectiveTask, samples: Sequence[Sample], passes: int) -> list[Step]:
    """The original model's answers, if it writes any, and reading them under plans."""
    if not generates(part.readout):
        return []
    uncut = asking_step(handle, part, samples, 1, 1.0, "uncut")
    traces = Step(
        name=f"{part.label}: right answers without each layer, at most",
        items=passes * len(samples),
        parameters=uncut.parameters,
        prompt_tokens=passes * (uncut.prompt_tokens + uncut.new_tokens[1]),
        batch_size=uncut.batch_size,
        least=_shared(handle) / max(len(samples), 1),
    )
    return [uncut, traces]


def _shared(handle: ModelHandle) -> float:
    return SHARED if ENGINES[handle.settings.engine].shares_work else 1.0


def asking_step(
    handle: ModelHandle, part: ObjectiveTask, samples: Sequence[Sample], plans: int, least: float, what: str
) -> Step:
    """The cost of answers to some items under some plans, from the length of the first prompts and right answers."""
    if not samples:
        raise InputError(
            f"{part.label} has no item for this: {what}. The prompt decides which items choose and which are reported; "
            "give more rows with different prompts."
        )
    check_longest(lambda: handle.weightless, (part.task.request(one, part.readout) for one in samples))
    seen = samples[:_NUM_COUNTED]
    requests = [part.task.request(sample, part.readout) for sample in seen]
    read = prompt_tokens([request.prompt for request in requests])
    fewest = most = 0.0
    for sample, request in zip(seen, requests, strict=True):
        if isinstance(request, GenerationRequest):
            fewest += min(len(sample.gold) / CHARACTERS_PER_TOKEN + 1, request.max_new_tokens)
            most += request.max_new_tokens
        else:
            read += prompt_tokens(request.continuations)
    times = plans * len(samples) / max(len(seen), 1)
    return Step(
        name=f"{part.label}, {what}",
        items=plans * len(samples),
        parameters=handle.num_parameters(handle.plan()),
        prompt_tokens=round(read * times),
        new_tokens=(round(fewest * times), round(most * times)),
        batch_size=handle.settings.batch_size,
        least=least,
    )


def _estimate(handle: ModelHandle, steps: Sequence[Step], folder: Path, *, loads: bool = True) -> CostEstimate:
    wanted = handle.settings
    weights = weight_counts(handle).bytes_in_memory if loads else 0
    cache = round(wanted.cache_gib * 2**30) if steps and ENGINES[wanted.engine].has_cache else 0
    disk = sum(_RECORD_BYTES * step.items + round(CHARACTERS_PER_TOKEN * step.new_tokens[1]) for step in steps)
    return CostEstimate(
        steps=tuple(steps),
        speed=measured_speed(wanted.device, handle.dtype) if steps else None,
        disk_bytes=disk,
        stays_bytes=disk,
        memory_bytes=weights + cache,
        folder=folder,
    )
