"""A sensitivity sweep: the loss of every task when one layer is skipped, as ``sweep.json`` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.evidence.intervals import ALPHA, adjust_by_holm, plain_estimates
from layercut.evidence.paired import Comparison, TaskRow
from layercut.runs.atomic import write_json
from layercut.runs.directory import SWEEP
from layercut.runs.environment import shown_path
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.text import Printed


@dataclass(frozen=True, kw_only=True)
class SweepRow(TaskRow):
    """The main metric of one task and readout, uncut against without one layer, on the same items."""

    layer: int
    outcomes: Mapping[str, int]
    """Number of answers without the layer by outcome: right, wrong, no_answer, cut (by the length limit)."""

    @property
    def shows_loss(self) -> bool:
        """Return True where the whole interval of the difference lies below 0."""
        return self.values.difference.high is not None and self.values.difference.high < 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **{name: getattr(self, name) for name in ("layer", "task", "version", "readout", "metric")},
            "value": self.values.cut.value,
            **{name: getattr(self, name) for name in ("n", "chance", "limit", "seed")},
            **plain_estimates(self.values._asdict()),
            "outcomes": dict(self.outcomes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SweepRow:
        """The inverse of ``to_dict``."""
        own = ("layer", "task", "version", "readout", "metric", "chance", "limit", "seed", "outcomes")
        return cls(**{name: data[name] for name in own}, values=Comparison.from_dict(data))


class Curve(NamedTuple):
    """One task and readout over all layers."""

    task: str
    readout: str
    rows: list[SweepRow]  # ascending by layer

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.task} ({self.readout})"

    @property
    def p_adjusted(self) -> dict[int, float]:
        """The p-value of each layer, after Holm's correction over the layers of this curve."""
        adjusted = adjust_by_holm([row.values.p_value for row in self.rows])
        return {row.layer: p for row, p in zip(self.rows, adjusted, strict=True)}

    @property
    def significant(self) -> frozenset[int]:
        """Layers with a loss that stands when all layers are judged together: shown, and p < 0.05 after Holm."""
        adjusted = self.p_adjusted
        return frozenset(row.layer for row in self.rows if row.shows_loss and adjusted[row.layer] < ALPHA)

    @property
    def refused(self) -> str:
        """Reason for which there is no retention, the same for all layers; empty where there is one."""
        return "" if any(row.kept_share is not None for row in self.rows) else self.rows[0].values.refused


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep(Printed):
    """All that a sweep found."""

    model: str
    model_hash: str
    num_layers: int  # decoder layers of the original model; not all of them need to have been skipped
    items: Mapping[str, str]  # hash of the item ids, per task
    rows: tuple[SweepRow, ...]

    @property
    def layers(self) -> list[int]:
        """The layers that were skipped, ascending."""
        return sorted({row.layer for row in self.rows})

    @property
    def curves(self) -> list[Curve]:
        """One for each task and readout, in the order in which they were asked."""
        cells: dict[tuple[str, str], list[SweepRow]] = {}
        for row in self.rows:
            cells.setdefault((row.task, row.readout), []).append(row)
        return [Curve(*cell, sorted(rows, key=lambda row: row.layer)) for cell, rows in cells.items()]

    def to_dict(self) -> dict[str, Any]:
        """Content of sweep.json."""
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "model_hash": self.model_hash,
            "num_layers": self.num_layers,
            "items": dict(self.items),
            "rows": [row.to_dict() for row in self.rows],
        }

    def save(self, folder: Path) -> None:
        """Write sweep.json whole, or not at all."""
        write_json(folder / SWEEP, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """Read a sweep from its run folder; InputError: it has not ended, or its file is damaged."""
        file = Path(folder) / SWEEP
        data = read_format(file, "finished sweep")
        try:
            return cls(
                **{name: data[name] for name in ("model", "model_hash", "num_layers", "items")},
                rows=tuple(SweepRow.from_dict(row) for row in data["rows"]),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(
                f"{shown_path(file)} is damaged ({type(error).__name__}: {error}); sweep again."
            ) from error
