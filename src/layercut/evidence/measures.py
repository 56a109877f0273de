"""Turn one value per item and model into rows: each measure of a pruned model paired with the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from layercut.evidence.diagnosis import MeasureRow
from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import Comparison, compare_paired

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
        if better == "lower" or unit != "share":
            found = without_kept(found)
        uncut, cut = _level(found.uncut, before, unit), _level(found.cut, after, unit)
        rows.append(
            MeasureRow(
                diagnostic=diagnostic,
                metric=measure,
                group=group,
                arm=arm,
                better=better,
                unit=unit,
                chance=chance,
                seed=seed,
                headline=headline,
                values=found._replace(uncut=uncut, cut=cut),
            )
        )
    return rows


def without_kept(values: Comparison) -> Comparison:
    """Without retentions, where they have no meaning."""
    return values._replace(retention=None, retention_above_chance=None)


def _level(estimate: Estimate, values: Sequence[float], unit: str) -> Estimate:
    """A value with its interval; without one for a constant that is no share, because it is so by construction."""
    return estimate._replace(low=None, high=None) if unit != "share" and len(set(values)) == 1 else estimate
