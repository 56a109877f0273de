"""What a diagnostic finds: a row per measure, original against pruned model, as diagnose.json holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import Comparison, PairedRow


@dataclass(frozen=True, kw_only=True)
class MeasureRow(PairedRow):
    """One measure of the original and of one pruned model on the same items."""

    diagnostic: str
    group: str
    """Which items or tokens, such as ``depth 3`` or ``digit``; empty for all of them."""
    arm: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "nats", "score", "words", "ratio"]
    headline: bool
    """Whether a loss here counts as damage."""

    @property
    def label(self) -> str:
        """Measure and group in few words."""
        return f"{self.metric}: {self.group}" if self.group else self.metric

    @property
    def is_worse(self) -> bool:
        """Whether the pruned model's value is on the wrong side of the original one's."""
        change = self.values.difference.value
        return change < 0 if self.better == "higher" else change > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = self.values
        return {
            "diagnostic": self.diagnostic,
            "measure": self.metric,
            **{name: getattr(self, name) for name in ("group", "arm", "better", "unit", "chance", "n")},
            "uncut": _ends(values.uncut),
            "cut": _ends(values.cut),
            "difference": _ends(values.difference),
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

        values = comparison_of(
            estimate("uncut"),
            estimate("cut"),
            estimate("difference"),
            kept=None if data["kept"] is None else estimate("kept"),
            chance=data["chance"],
            p_value=data["p_value"],
            test=data["test"],
        )
        own = ("diagnostic", "group", "arm", "better", "unit", "chance", "seed", "headline")
        return cls(metric=data["measure"], values=values, **{name: data[name] for name in own})


class DiagnosisExample(TypedDict):
    """One item that the original model gets right and a pruned model does not."""

    diagnostic: str
    arm: str
    id: str
    question: str
    gold: str
    uncut: str
    cut: str
    tokens: list[str]
    """The original model's answer by tokens; empty where they are not known."""


class Diagnosis(TypedDict):
    """The results of one diagnostic."""

    rows: Sequence[MeasureRow]
    data: dict[str, Any]
    """Other data for its section and figure."""
    examples: list[DiagnosisExample]
    notes: list[str]


def with_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    """What such a file holds, its rows as ``MeasureRow``."""
    found = data["diagnostics"].items()
    return {
        **data,
        "diagnostics": {name: {**one, "rows": [*map(MeasureRow.from_dict, one["rows"])]} for name, one in found},
    }


def comparison_of(
    uncut: Estimate,
    cut: Estimate,
    difference: Estimate,
    *,
    kept: Estimate | None = None,
    chance: float | None = None,
    p_value: float = 1.0,
    test: str = "none",
) -> Comparison:
    """A comparison of which no more is known than this."""
    retention, above_chance = (kept, None) if chance is None else (None, kept)
    return Comparison(uncut, cut, difference, retention, above_chance, None, None, p_value, refused="", test=test)


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    """Value, lower and upper end; None for an end that is not finite, which JSON does not have."""
    if estimate is None:
        return None
    return [estimate.value, *(end if end is not None and math.isfinite(end) else None for end in estimate[1:3])]
