"""The verdict of a diagnosis: significant damages, the largest one, and where answers first go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.evidence.diagnosis import Diagnosis, MeasureRow, with_rows
from layercut.evidence.multiplicity import holm
from layercut.runs.settings import read_format

FORMAT_VERSION = 1
FILE = "diagnose.json"
ALPHA = 0.05


class Damage(NamedTuple):
    """A loss that is shown."""

    row: MeasureRow
    p_adjusted: float
    """Of Holm, over all headline measures of the pruned model."""

    @property
    def severity(self) -> float:
        """What share of what the original model had is lost; for measures that should be low, how much they rose."""
        kept = self.row.kept_share
        return abs(self.row.values.difference.value) if kept is None else 1 - kept.value


def load(folder: Path, name: str = FILE) -> dict[str, Any]:
    """What diagnose.json, or another file of its format, in a run folder holds.

    Raises:
        InputError: there is none, or it is damaged or of an unknown format.
    """
    return with_rows(read_format(Path(folder) / name, "diagnosis"))


def damages(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[Damage]:
    """Every headline measure of a pruned model that is shown to be worse than uncut, the largest loss first.

    Shown: the difference goes the wrong way and the p-value is below 0.05 after Holm's correction over all headline
    measures of this model. Measures without a headline explain; they do not test for damage.
    """
    rows = [row for found in diagnoses.values() for row in found["rows"] if row.arm == arm and row.headline]
    adjusted = holm([row.values.p_value for row in rows])
    worse = [Damage(row, p) for row, p in zip(rows, adjusted, strict=True) if p < ALPHA and row.is_worse]
    return sorted(worse, key=lambda found: (-found.severity, found.p_adjusted))


def over_models(found: Diagnosis, measure: str) -> dict[str, tuple[MeasureRow, bool]]:
    """By model, the row of a measure, and whether its loss stands after Holm's correction over these models."""
    rows = [row for row in found["rows"] if row.metric == measure and not row.group]
    adjusted = holm([row.values.p_value for row in rows])
    return {row.arm: (row, row.is_worse and p < ALPHA) for row, p in zip(rows, adjusted, strict=True)}


def likely_kind(first_wrong: Mapping[str, Any]) -> str | None:
    """The kind of token at which answers first differ from the original model's most often; None where none differs."""
    kinds: Mapping[str, int] = first_wrong["kinds"]
    return max(sorted(kinds), key=kinds.__getitem__) if kinds else None


def headline_rows(diagnosis: Diagnosis, arm: str) -> Sequence[MeasureRow]:
    """Of one diagnostic and pruned model."""
    return [row for row in diagnosis["rows"] if row.arm == arm and row.headline]
