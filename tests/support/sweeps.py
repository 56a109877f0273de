"""Sweeps made from chosen scores instead of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from layercut.evidence.paired import compare_paired
from layercut.evidence.sweep import Sweep, SweepRow

# What of GSM8K is kept without each of 30 layers, in %: as read off a figure of arXiv:2602.01997, with its deep holes.
HOLES = (0, 72, 85, 78, 80, 75, 67, 66, 66, 66, 55, 51, 20, 40, 10)
HOLES += (37, 73, 21, 78, 87, 88, 89, 98, 90, 87, 93, 87, 93, 88, 71)


def curve(
    task: str, readout: str, kept: Mapping[int, float] | Sequence[float], *, uncut: float = 0.6,
    chance: float | None = 0.1, n: int = 64,
) -> list[SweepRow]:  # fmt: skip
    """Rows of one task and readout: in % what is kept above chance without each layer."""
    by_layer = dict(kept) if isinstance(kept, Mapping) else dict(enumerate(kept))
    level = chance or 0.0
    hardness = np.random.default_rng([ord(letter) for letter in task]).permutation(np.arange(n) / n + 1e-6)
    before = (hardness < uncut).astype(float)
    rows = []
    asked = {"task": task, "version": 1, "readout": readout, "metric": "accuracy", "chance": chance, "limit": n}
    for layer, percent in by_layer.items():
        after = (hardness < level + (uncut - level) * percent / 100).astype(float)
        rows.append(
            SweepRow(
                **asked,
                seed=0,
                layer=layer,
                values=compare_paired(list(before), list(after), chance=chance, num_resamples=1000),
                outcomes={"right": int(after.sum()), "wrong": int(n - after.sum())},
            )
        )
    return rows


def sweep_of(*curves: Sequence[SweepRow]) -> Sweep:
    """A sweep of a model of 30 layers."""
    return Sweep(
        model="bundled:smollm2-135m",
        model_hash="a" * 64,
        num_layers=30,
        items={rows[0].task: "b" * 64 for rows in curves},
        rows=tuple(row for rows in curves for row in rows),
    )
