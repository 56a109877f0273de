"""Turn one value per item and model into rows: each measure of a pruned model paired with the original model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import compare_paired
from layercut.runs.diagnosis import Interval, MeasureRow

Values = Mapping[str, Sequence[float]]
"""By name of the model, the original one first: one value per item, all in the same order."""


def measure_rows(
    diagnostic: str,
    measure: str,
    values: Values,
    *,
    seed: int,
    group: str = "",
    better: Literal["higher", "lower"] = "higher",
    unit: Literal["share", "nats", "score", "words", "ratio"] = "share",
    chance: float | None = None,
    clusters: Sequence[str] | None = None,
    headline: bool = False,
) -> list[MeasureRow]:
    """A row for every model but the first, which is the original one; none where there are no items.

    A single model has one row, beside itself.

    Statistics are those of ``compare_paired``: McNemar's exact test for 0/1 values, else sign flips.
    """
    first, *cuts = values.items()
    before = first[1]
    if not before:
        return []
    rows: list[MeasureRow] = []
    for arm, after in cuts or [first]:
        found = compare_paired(before, after, chance=chance, seed=seed, clusters=clusters)
        kept = found.retention if chance is None else found.retention_above_chance
        rows.append(
            {
                "diagnostic": diagnostic,
                "measure": measure,
                "group": group,
                "arm": arm,
                "better": better,
                "unit": unit,
                "chance": chance,
                "n": found.uncut.n,
                "uncut": _level(found.uncut, before, unit),
                "cut": _level(found.cut, after, unit),
                "difference": interval(found.difference),
                "kept": interval(kept) if kept is not None and better == "higher" and unit == "share" else None,
                "p_value": found.p_value,
                "test": found.test,
                "seed": seed,
                "headline": headline,
            }
        )
    return rows


def _level(estimate: Estimate, values: Sequence[float], unit: str) -> Interval:
    """A value with its interval; without one for a constant that is no share, because it is so by construction."""
    return [estimate.value, None, None] if unit != "share" and len(set(values)) == 1 else interval(estimate)


def interval(estimate: Estimate) -> Interval:
    """A value and the ends of its interval; None for an end that is not finite, which JSON does not have."""
    ends = (estimate.low, estimate.high)
    return [estimate.value, *(end if end is not None and math.isfinite(end) else None for end in ends)]
