"""A sensitivity sweep: the loss of every task when one layer is skipped, and the agreement of tasks.

``sweep.json`` in the run folder holds all numbers; table, report and plot are made from it and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy

from layercut.errors import InputError
from layercut.evidence.intervals import ALPHA, Estimate, adjust_by_holm, finite_array, plain_estimates
from layercut.evidence.paired import Comparison, TaskRow
from layercut.runs.atomic import write_json
from layercut.runs.directory import SWEEP
from layercut.runs.environment import shown_path
from layercut.runs.settings import FORMAT_VERSION, check_version, read_json_or_refuse
from layercut.text import Printed

_FEWEST = 3
_DIGITS = 12
"""Values are rounded to this many decimals: sums of the same numbers in another order must stay ties."""


class RankCorrelation(NamedTuple):
    """Agreement of two orders: 1 the same, 0 unrelated, -1 opposite."""

    estimate: Estimate | None  # ``n`` counts the pairs; None where there is no number, see ``refused``
    refused: str  # reason for which there is none, in words


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Spearman's rho of pairs of values, with a 95 % interval by Fisher's z.

    Ties get their mean rank. z = atanh(rho) has a standard error of sqrt((1 + rho^2 / 2) / (n - 3)), where n is the
    number of pairs. Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations", Psychometrika 65 (2000). The interval takes the pairs as a draw from many; noise in the values
    themselves pulls rho towards 0 and is not in it. With fewer than four pairs, or all in exactly the same or the
    opposite order, there is no interval.

    Raises:
        InputError: different numbers of values, none, or a value that is not finite.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values came; a rank correlation needs pairs.")
    a, b = (np.round(finite_array(values), _DIGITS) for values in (first, second))
    n = len(a)
    if n < _FEWEST:
        return RankCorrelation(None, f"a correlation needs at least {_FEWEST} values, not {n}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(None, "all values on one side are equal, so they have no order")
    value = float(np.clip(float(scipy.stats.spearmanr(a, b).statistic), -1.0, 1.0))
    if n <= 3 or math.isclose(abs(value), 1.0):
        return RankCorrelation(Estimate(value, None, None, n, "none"), "")
    reach = float(scipy.stats.norm.ppf(0.975)) * math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
    return RankCorrelation(Estimate(value, low, high, n, "fisher"), "")


@dataclass(frozen=True, kw_only=True)
class SweepRow(TaskRow):
    """The main metric of one task and readout, uncut against without one layer, on the same items."""

    layer: int
    halves: tuple[float, float] | None
    """The value without the layer on every second item, and on the others; None for a single item."""
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
            "halves": None if self.halves is None else list(self.halves),
            "outcomes": dict(self.outcomes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SweepRow:
        """The inverse of ``to_dict``."""
        own = ("layer", "task", "version", "readout", "metric", "chance", "limit", "seed", "outcomes")
        halves = None if data["halves"] is None else (data["halves"][0], data["halves"][1])
        return cls(**{name: data[name] for name in own}, values=Comparison.from_dict(data), halves=halves)


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


class Agreement(NamedTuple):
    """Agreement of two tasks on the layers."""

    first: str
    second: str
    kind: str
    """``halves`` (a task with itself, on two halves of its items) or ``tasks``."""
    rho: RankCorrelation

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        estimate, refused = self.rho
        rho = None if estimate is None else estimate._asdict()
        return {"first": self.first, "second": self.second, "kind": self.kind, "rho": rho, "refused": refused}


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

    def agreements(self) -> list[Agreement]:
        """Spearman's rho over layers of every two tasks, and of every task with itself on halves of its items.

        A task ranks a layer the higher, the lower the score without it. Tasks whose original model is at chance take no
        part: what they rank is noise. The halves say how much of a task's order its items settle at all; two tasks
        cannot be expected to agree more with each other than with themselves.
        """
        curves = [curve for curve in self.curves if not curve.refused]
        agreements = []
        for curve in curves:
            halves = [row.halves for row in curve.rows if row.halves is not None]
            if halves:
                rho = rank_correlation([first for first, _ in halves], [second for _, second in halves])
                agreements.append(Agreement(curve.label, curve.label, "halves", rho))
        for first, second in combinations(curves, 2):
            rho = rank_correlation(*([-row.values.cut.value for row in curve.rows] for curve in (first, second)))
            agreements.append(Agreement(first.label, second.label, "tasks", rho))
        return agreements

    def to_dict(self) -> dict[str, Any]:
        """Content of sweep.json."""
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "model_hash": self.model_hash,
            "num_layers": self.num_layers,
            "items": dict(self.items),
            "rows": [row.to_dict() for row in self.rows],
            "rank_correlations": [agreement.to_dict() for agreement in self.agreements()],
        }

    def save(self, folder: Path) -> None:
        """Write sweep.json whole, or not at all."""
        write_json(folder / SWEEP, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """Read a sweep from its run folder.

        Raises:
            InputError: no sweep has ended in this folder, or its file is damaged or of an unknown format.
        """
        file = Path(folder) / SWEEP
        again = "run the same `layercut sweep` command again to finish it"
        data = read_json_or_refuse(file, f"{shown_path(Path(folder))} holds no {SWEEP}; {again}")
        check_version(data.get("format_version") if isinstance(data, dict) else None, file)
        try:
            return cls(
                **{name: data[name] for name in ("model", "model_hash", "num_layers", "items")},
                rows=tuple(SweepRow.from_dict(row) for row in data["rows"]),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(
                f"{shown_path(file)} is damaged ({type(error).__name__}: {error}); sweep again."
            ) from error


def is_sweep_folder(folder: Path) -> bool:
    """Return True for a run folder with a finished sweep."""
    return (Path(folder) / SWEEP).is_file()
