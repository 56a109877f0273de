"""Which way of making a plan's model is tested."""

from __future__ import annotations

from layercut.pruning.search import _best
from layercut.runs.prune import Estimated, TaskKept, Tried


def tried(healing: str | None, *kept: float) -> Tried:
    values = [Estimated(value=one, n=100) for one in kept]
    tasks = [
        TaskKept(task=f"task {place}", readout="short", uncut=one, cut=one, kept=one)
        for place, one in enumerate(values)
    ]
    return Tried(healing=healing, kept=tuple(tasks))


def test_the_way_whose_worst_task_keeps_most_is_tested() -> None:
    assert _best([tried(None, 0.90), tried("seam", 0.92)]).healing == "seam"
    assert _best([tried(None, 0.95, 0.80), tried("seam", 0.85, 0.84)]).healing == "seam"
    assert _best([tried(None, 0.90), tried("seam", 0.90)]).healing is None, "of equals the one that is not healed"
