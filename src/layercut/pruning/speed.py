"""Speed and memory of the original and the chosen model, timed by turns on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layercut.diagnostics.cost import NUM_PROMPT_TOKENS, NUM_ROUNDS, Timing, ratio, timing
from layercut.evidence.intervals import Estimate
from layercut.pruning.path import measured
from layercut.runs.prune import Estimated, TimedSpeed
from layercut.surgery.remove import bypass

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel
    from layercut.progress import Progress
    from layercut.surgery.plan import CutPlan

BATCH_SIZE = 1
_MEASURES: tuple[tuple[Any, str, Any, Any], ...] = (
    ("decode", "decode", "tokens/s", "higher"),
    ("prefill", "prefill", "tokens/s", "higher"),
    ("first token", "first_token", "s", "lower"),
)


def timed_rounds(
    uncut: tuple[LoadedModel, CutPlan], cut: tuple[LoadedModel, CutPlan], seed: int, progress: Progress
) -> dict[str, Any]:
    """Rounds in which both models run, in an order that alternates; one before them warms caches up.

    Returns:
        ``rounds``, a pair of timings each, and what was counted: ``memory_bytes`` and ``cache_bytes_per_token`` of
        both; JSON-able.
    """
    models = {"uncut": uncut, "cut": cut}
    rounds: list[dict[str, Any]] = []
    for number in range(NUM_ROUNDS + 1):
        progress("rounds timed", number, NUM_ROUNDS + 1)
        names = list(models) if number % 2 else list(models)[::-1]
        found = {name: timing(*models[name], BATCH_SIZE, seed)._asdict() for name in names}
        rounds += [found] if number else []
    return {
        "rounds": rounds,
        "memory_bytes": {name: _weights(*model) for name, model in models.items()},
        "cache_bytes_per_token": {
            name: rounds[0][name]["cache_bytes"] / (BATCH_SIZE * NUM_PROMPT_TOKENS) for name in models
        },
    }


def speeds(rounds: Sequence[dict[str, Any]]) -> tuple[TimedSpeed, ...]:
    """Speeds of both models, from the rounds."""
    found = []
    for name, field, unit, better in _MEASURES:
        assert field in Timing._fields
        before, after = ([float(one[model][field]) for one in rounds] for model in ("uncut", "cut"))
        found.append(
            TimedSpeed(
                name=name,
                unit=unit,
                better=better,
                batch_size=BATCH_SIZE,
                uncut=_mean(before),
                cut=_mean(after),
                ratio=measured(ratio(before, after)),
            )
        )
    return tuple(found)


def _mean(values: Sequence[float]) -> Estimated:
    """Geometric mean with a 95 % interval of Student's t of its logarithm."""
    found: Estimate = ratio([1.0] * len(values), values)
    assert math.isclose(found.value, float(np.exp(np.mean(np.log(values)))))
    return measured(found)


def _weights(loaded: LoadedModel, plan: CutPlan) -> int:
    with bypass(loaded.model, plan):
        return sum(part.nbytes for part in loaded.model.parameters())
