"""How long a list of cells still takes, judged by what the finished ones took.

Items of different tasks cost very different amounts, so a share of items is no share of time. Seconds per item are
measured for each kind of cell; a kind that has not run yet is estimated from its weight and the speed seen so far.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable
    """Cells of one kind take the same time an item, such as the same task and readout under another plan."""
    num_items: int
    weight: float
    """Rough cost of one item against the other kinds' (tokens, say). Used only until the kind has been measured."""


class Eta:
    """Remaining seconds of a list of cells."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = list(cells)
        self._done = [0] * len(cells)
        self._items: dict[Hashable, int] = {}
        self._seconds: dict[Hashable, float] = {}

    def skip(self, cell: int, num_items: int) -> None:
        """Items that were there already: they are done, but say nothing about speed."""
        self._done[cell] += num_items

    def advance(self, cell: int, num_items: int, seconds: float) -> None:
        """``num_items`` more items of a cell were worked in ``seconds``."""
        self._done[cell] += num_items
        kind = self._cells[cell].kind
        self._items[kind] = self._items.get(kind, 0) + num_items
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        left = [(cell, cell.num_items - done) for cell, done in zip(self._cells, self._done, strict=True)]
        if not any(count > 0 for _, count in left):
            return 0.0
        weighed = sum(
            self._items[c.kind] * c.weight for c in {c.kind: c for c in self._cells}.values() if c.kind in self._items
        )
        if not weighed:
            return None
        per_weight = sum(self._seconds.values()) / weighed
        total = 0.0
        for cell, count in left:
            measured = self._items.get(cell.kind, 0)
            each = self._seconds[cell.kind] / measured if measured else cell.weight * per_weight
            total += max(count, 0) * each
        return total
