"""Results of a diagnosis, as diagnose.json holds them: a row per measure of two models, and the damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from layercut.evidence.intervals import ALPHA, Estimate, adjust_by_holm
from layercut.evidence.paired import Comparison, PairedRow, compare_paired
from layercut.runs.directory import DIAGNOSIS
from layercut.runs.settings import read_format


@dataclass(frozen=True, kw_only=True)
class MeasureRow(PairedRow):
    """One measure of the original and of one pruned model on the same items."""

    diagnostic: str
    group: str  # items or tokens, such as ``depth 3`` or ``digit``; empty for all of them
    arm: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "nats", "words"]
    headline: bool  # A loss here counts as damage

    @property
    def label(self) -> str:
        """Measure and group in few words."""
        return f"{self.metric}: {self.group}" if self.group else self.metric

    @property
    def is_worse(self) -> bool:
        """Return True where the pruned model's value is on the wrong side of the original one's."""
        change = self.values.difference.value
        return change < 0 if self.better == "higher" else change > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = self.values
        return {
            "diagnostic": self.diagnostic,
            "measure": self.metric,
            **{name: getattr(self, name) for name in ("group", "arm", "better", "unit", "chance", "n")},
            **{name: _ends(getattr(values, name)) for name in ("uncut", "cut", "difference")},
            "kept": _ends(self.kept_share),
            "p_value": values.p_value,
            "test": values.test,
            "seed": self.seed,
            "headline": self.headline,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MeasureRow:
        """The inverse of ``to_dict``, without the methods of the intervals."""

        def estimate(name: str) -> Estimate:
            value, low, high = data[name]
            return Estimate(value, low, high, data["n"], "")

        kept = None if data["kept"] is None else estimate("kept")
        values = Comparison(
            estimate("uncut"),
            estimate("cut"),
            estimate("difference"),
            retention=kept if data["chance"] is None else None,
            retention_above_chance=None if data["chance"] is None else kept,
            lost=None,
            gained=None,
            p_value=data["p_value"],
            refused="",
            test=data["test"],
        )
        own = ("diagnostic", "group", "arm", "better", "unit", "chance", "seed", "headline")
        return cls(metric=data["measure"], values=values, **{name: data[name] for name in own})


class Diagnosis(TypedDict):
    """The results of one diagnostic."""

    rows: Sequence[MeasureRow]
    data: dict[str, Any]  # other data for its section and figure
    notes: list[str]


class Damage(NamedTuple):
    """A loss that is shown."""

    row: MeasureRow
    p_adjusted: float  # Holm's p-value, over all headline measures of the pruned model

    @property
    def severity(self) -> float:
        """Share of the original model's value that is lost; of measures that should be low, their rise."""
        kept = self.row.kept_share
        return abs(self.row.values.difference.value) if kept is None else 1 - kept.value


def load_diagnosis(folder: Path) -> dict[str, Any]:
    """Read diagnose.json from a run folder. InputError: there is none, or it is damaged or of an unknown format."""
    return with_rows(read_format(Path(folder) / DIAGNOSIS, "diagnosis"))


def layer_damages(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[Damage]:
    """Every headline measure of a pruned model that is worse than uncut, p < 0.05 after Holm's correction over all
    headline measures of this model; the largest loss first.
    """
    rows = [row for diagnosis in diagnoses.values() for row in diagnosis["rows"] if row.arm == arm and row.headline]
    adjusted = adjust_by_holm([row.values.p_value for row in rows])
    worse = [Damage(row, p) for row, p in zip(rows, adjusted, strict=True) if p < ALPHA and row.is_worse]
    return sorted(worse, key=lambda damage: (-damage.severity, damage.p_adjusted))


def with_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    """Content of such a file, its rows as ``MeasureRow``."""
    diagnoses = {
        name: {**diagnosis, "rows": [MeasureRow.from_dict(row) for row in diagnosis["rows"]]}
        for name, diagnosis in data["diagnostics"].items()
    }
    return {**data, "diagnostics": diagnoses}


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    """Value, lower and upper end; None for an end that is not finite, which JSON does not have."""
    if estimate is None:
        return None
    return [estimate.value, *(end if end is not None and math.isfinite(end) else None for end in estimate[1:3])]


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
    unit: Literal["share", "nats", "words"] = "share",
    chance: float | None = None,
    clusters: Sequence[str] | None = None,
    headline: bool = False,
) -> list[MeasureRow]:
    """A row for every model but the first, which is the original one; none where there are no items.

    Statistics are those of ``compare_paired``: McNemar's exact test for 0/1 values, else sign flips.
    """
    (_, before), *cuts = values.items()
    if not before:
        return []
    rows: list[MeasureRow] = []
    for arm, after in cuts:
        comparison = compare_paired(before, after, chance=chance, seed=seed, clusters=clusters)
        if better == "lower" or unit != "share":
            comparison = without_kept(comparison)
        if unit != "share":  # a constant has no interval, because it is so by construction
            uncut, cut = (
                level._replace(low=None, high=None) if len(set(of_model)) == 1 else level
                for level, of_model in ((comparison.uncut, before), (comparison.cut, after))
            )
            comparison = comparison._replace(uncut=uncut, cut=cut)
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
                values=comparison,
            )
        )
    return rows


def item_rows(
    diagnostic: str,
    items: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    seed: int,
    higher: Sequence[str],
    headlines: Sequence[str],
) -> list[MeasureRow]:
    """Rows of all measures of each item, by name of the model and of the measure; ``higher`` are those to be high."""
    names = next((list(measures) for of_model in items.values() for measures in of_model[:1]), [])
    return [
        row
        for name in names
        for row in measure_rows(
            diagnostic,
            name,
            {model: [float(measures[name]) for measures in of_model] for model, of_model in items.items()},
            seed=seed,
            better="higher" if name in higher else "lower",
            unit="words" if name == "length" else "share",
            headline=name in headlines,
        )
    ]


def without_kept(values: Comparison) -> Comparison:
    """Without retentions, where they have no meaning."""
    return values._replace(retention=None, retention_above_chance=None)
