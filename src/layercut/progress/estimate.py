"""Estimate the time left for a list of cells from the finished ones.

Items of different tasks differ in cost, so a share of items is not a share of time. Seconds per item are measured for
each kind of cell; a kind that has not run yet is estimated from its weight and the speed seen so far.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable
    """Cells of one kind take the same time an item, such as the same task and readout under another plan."""
    num_items: int
    weight: float
    """Rough cost of one item against the other kinds' (tokens, say). Used only until the kind has been measured. 0 for
    what cannot be guessed, such as a search: it counts for nothing until one of its kind has been measured."""


_SPREAD = ((32, 16.0, 2.0), (100, 4.0, 2.0), (1000, 2.0, 1.5))
"""Fewer items timed than the first number: the time is divided by the second at best, multiplied by the third at worst.
A rule of thumb: a few items fill no batch, and the machine may have been busy with something else."""
_MANY, _WHOLE, _GUESSED = (1.5, 1.5), (2.0, 2.0), (16.0, 4.0)
"""The same for more items than that, for steps timed as a whole, and for kinds judged by their weight alone."""


class Eta:
    """Remaining seconds of a list of cells."""

    def __init__(self, cells: Sequence[Workload]) -> None:
        self._cells = list(cells)
        self._done = [0] * len(cells)
        self._items: dict[Hashable, int] = {}
        self._seconds: dict[Hashable, float] = {}
        self._rates: dict[Hashable, list[float]] = {}
        """Seconds an item of every earlier run, by kind."""

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
            self._rates.setdefault(kind, []).append(seconds / num_items)

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        return self.remaining_of(range(len(self._cells)))

    def remaining_of(self, cells: Iterable[int]) -> float | None:
        """Seconds of some of the cells, or None while nothing has been measured."""
        each = self._each(left := self._left(cells))
        return None if each is None else sum(each[cell.kind] * count for cell, count in left)

    def range_of(self, cells: Iterable[int]) -> tuple[float, float] | None:
        """The least and the most seconds that some of the cells may take, by what was timed; None as above."""
        each = self._each(left := self._left(cells))
        if each is None:
            return None
        low = high = 0.0
        for cell, count in left:
            fastest, slowest = self._spread(cell, each[cell.kind])
            low, high = low + fastest * count, high + slowest * count
        return low, high

    def timed(self, cells: Iterable[int]) -> dict[Hashable, int]:
        """How many items were timed of each kind that is left; 0 for one judged by its weight."""
        return {cell.kind: self._items.get(cell.kind, 0) for cell, _ in self._left(cells)}

    def _left(self, cells: Iterable[int]) -> list[tuple[Workload, int]]:
        left = ((self._cells[i], self._cells[i].num_items - self._done[i]) for i in cells)
        return [(cell, count) for cell, count in left if count > 0]

    def _spread(self, cell: Workload, each: float) -> tuple[float, float]:
        """The least and the most seconds an item."""
        num, rates = self._items.get(cell.kind, 0), self._rates.get(cell.kind, [])
        few = next(((best, worst) for most, best, worst in _SPREAD if num < most), _MANY)
        best, worst = _GUESSED if not num else few if cell.weight else _WHOLE
        return min(each / best, *rates, each), max(each * worst, *rates, each)

    def _each(self, left: Sequence[tuple[Workload, int]]) -> dict[Hashable, float] | None:
        """Seconds an item of every kind that is left; None where one of them cannot be judged."""
        known = {cell.kind: cell.weight for cell in self._cells if cell.kind in self._items and cell.weight}
        weighed = sum(self._items[kind] * weight for kind, weight in known.items())
        if not weighed and any(cell.kind not in self._items and cell.weight for cell, _ in left):
            return None
        per_weight = sum(self._seconds[kind] for kind in known) / weighed if weighed else 0.0
        each: dict[Hashable, float] = {}
        for cell, _ in left:
            measured = self._items.get(cell.kind, 0)
            each[cell.kind] = self._seconds[cell.kind] / measured if measured else cell.weight * per_weight
        return each

    @property
    def unknown(self) -> int:
        """How many pieces are left that can neither be guessed nor were measured."""
        return sum(
            not cell.weight and cell.kind not in self._items and done < cell.num_items
            for cell, done in zip(self._cells, self._done, strict=True)
        )
