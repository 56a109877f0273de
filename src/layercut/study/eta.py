"""How long a list of cells still takes, judged by what the finished ones took.

Items of different tasks cost very different amounts, so a share of items is no share of time. Seconds per item are
measured for each kind of cell; a kind that has not run yet is estimated from its weight and the speed seen so far.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable
    """Cells of one kind take the same time an item, such as the same task and readout under another plan."""
    num_items: int
    weight: float
    """Rough cost of one item against the other kinds' (tokens, say). Used only until the kind has been measured. 0 for
    what cannot be guessed, such as a search: it counts for nothing until one of its kind has been measured."""


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

    def learn(self, kind: Hashable, num_items: int, seconds: float) -> None:
        """What an earlier run measured: items of this kind took so long. Other kinds than the cells' say nothing."""
        if num_items and any(cell.kind == kind for cell in self._cells):
            self._items[kind] = self._items.get(kind, 0) + num_items
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        return self.remaining_of(range(len(self._cells)))

    def remaining_of(self, cells: Iterable[int]) -> float | None:
        """Seconds of some of the cells, or None while nothing has been measured."""
        left = [(self._cells[i], self._cells[i].num_items - self._done[i]) for i in cells]
        if not any(count > 0 for _, count in left):
            return 0.0
        known = {cell.kind: cell.weight for cell in self._cells if cell.kind in self._items and cell.weight}
        weighed = sum(self._items[kind] * weight for kind, weight in known.items())
        if not weighed and any(count > 0 and cell.kind not in self._items and cell.weight for cell, count in left):
            return None
        per_weight = sum(self._seconds[kind] for kind in known) / weighed if weighed else 0.0
        total = 0.0
        for cell, count in left:
            measured = self._items.get(cell.kind, 0)
            each = self._seconds[cell.kind] / measured if measured else cell.weight * per_weight
            total += max(count, 0) * each
        return total

    @property
    def unknown(self) -> int:
        """How many pieces are left that can neither be guessed nor were measured."""
        return sum(
            not cell.weight and cell.kind not in self._items and done < cell.num_items
            for cell, done in zip(self._cells, self._done, strict=True)
        )
