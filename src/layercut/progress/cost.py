"""Estimate the time left for a list of cells from the finished ones.

Items of different tasks differ in cost, so a share of items is not a share of time. Seconds per item are measured for
each kind of cell. The time left is known once every kind that is left was measured; a forecast also judges a kind by
its weight and the measured speed of others.

There is no time left before ``ENOUGH`` items of the present kind, or a quarter of them, were timed, and where an item
takes longer than twice all that was left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from layercut.progress import OnProgress

ENOUGH = 20
"""Timed items of a kind that give an estimate, where there are four times as many."""
_SHORT = 10.0
"""Seconds that an item may take longer than expected without a word."""
RELIABLE = 4.0
"""The most by which the ends of a range may differ: its middle is then right within a factor of two."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable
    """Cells of one kind need the same time per item, such as one task and readout under several plans."""
    num_items: int
    weight: float
    """Rough cost of one item relative to other kinds (tokens, say). Used only until the kind has been measured. 0 for
    unknown costs, such as a search: it counts only once one of its kind has been measured.
    """


_SPREAD = ((32, 16.0, 2.0), (100, 4.0, 2.0), (1000, 2.0, 1.5))
"""With fewer timed items than the first number, the time is divided by the second at best and multiplied by the third
at worst. A rule of thumb: a few items fill no batch, and the machine may have been busy.
"""
_MANY, _WHOLE, _GUESSED = (1.5, 1.5), (2.0, 2.0), (16.0, 4.0)
"""The same for more items than that, for steps timed as a whole, and for kinds estimated by their weight alone."""


class Eta:
    """Remaining seconds of a list of cells."""

    def __init__(self, cells: Sequence[Workload]) -> None:
        self._cells = list(cells)
        self._done = [0] * len(cells)
        self._items: dict[Hashable, int] = {}
        self._seconds: dict[Hashable, float] = {}
        self._rates: dict[Hashable, list[float]] = {}
        """Seconds an item of every earlier run, by kind."""
        self._most: dict[Hashable, float] = {}
        """Seconds an item at most, by kind, where known."""
        self._at, self._since = -1, 0.0
        """The cell that is worked on, and when it began or its last item ended."""
        self._begun = 0
        """Items of it that were left when it began."""

    def skip(self, cell: int, num_items: int) -> None:
        """Count items that were done before, without a time."""
        self._count(cell, num_items)

    def num_left(self, cell: int) -> int:
        """Items of a cell that are not counted yet."""
        return self._cells[cell].num_items - self._done[cell]

    def advance(self, cell: int, num_items: int, seconds: float) -> None:
        """Count items of a cell that took ``seconds``."""
        self._count(cell, num_items)
        kind = self._cells[cell].kind
        self._items[kind] = self._items.get(kind, 0) + num_items
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def begin(self, cell: int) -> None:
        """This cell is worked on now. What its next item has taken so far is no longer left."""
        self._at, self._since = cell, time.monotonic()

    def reports(self, cell: int, counted: Callable[[int, int, int], None]) -> OnProgress:
        """Begin a cell. The result takes (items done, items in all), first with those done before, which have no time;
        ``counted`` is then called with the new items and both numbers."""
        self.begin(cell)
        last, seen, before = time.monotonic(), -1, self._done[cell]

        def on_progress(done: int, total: int) -> None:
            nonlocal last, seen
            now = time.monotonic()
            new = done - (before if seen < 0 else seen)
            if seen < 0:
                self.skip(cell, new)
                self._begun = total - done
            else:
                self.advance(cell, new, now - last)
            counted(new, done, total)
            seen, last = done, now

        return on_progress

    def _count(self, cell: int, num_items: int) -> None:
        self._done[cell] += num_items
        if cell == self._at:
            self._since = time.monotonic()

    def bound(self, seconds_left: Callable[[int], float | None]) -> None:
        """Bound the present cell, whose first answers come late in a large batch, and all others soon after.

        ``seconds_left`` gives the most seconds for the items that were left when the cell began; None where unknown.
        """
        kind, left, seconds = self._cells[self._at].kind, self.num_left(self._at), seconds_left(self._begun)
        self._most.pop(kind, None)
        if seconds is not None and left > 0:
            self._most[kind] = seconds / left

    def learn(self, kind: Hashable, num_items: int, seconds: float) -> None:
        """Add an earlier measurement: the time of items of a kind. Kinds without a cell are ignored."""
        if num_items and any(cell.kind == kind for cell in self._cells):
            self._items[kind] = self._items.get(kind, 0) + num_items
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
            self._rates.setdefault(kind, []).append(seconds / num_items)

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        return self.remaining_of(range(len(self._cells)))

    def remaining_of(self, cells: Iterable[int]) -> float | None:
        """Seconds of some of the cells; None where a kind of them was not measured, or too little."""
        indices = list(cells)
        each = self._each(left := self._left(indices))
        new = any(cell.weight and cell.kind not in self._items for cell, _ in left)
        if each is None or new or any(self._wanted(cell.kind) for cell, _ in left):
            return None
        spent = time.monotonic() - self._since
        active = self._left(set(indices) & {self._at})
        rest = sum(each[cell.kind] * count for cell, count in left) - sum(
            min(spent, each[cell.kind]) for cell, _ in active
        )
        return None if active and spent > max(2 * rest, _SHORT) else rest

    @property
    def remaining_here(self) -> float | None:
        """Seconds of the present cell; None where there is none, or as for ``remaining``."""
        return self.remaining_of([self._at]) if self._at >= 0 else None

    @property
    def wanted(self) -> int:
        """Items of the present kind that have to be timed before there is an estimate; 0 where enough were."""
        return self._wanted(self._cells[self._at].kind) if self._at >= 0 else 0

    def _wanted(self, kind: Hashable) -> int:
        most = max(cell.num_items for cell in self._cells if cell.kind == kind)
        enough = min(ENOUGH, math.ceil(most / 4))
        known = kind in self._rates or kind in self._most or kind not in self._items
        left = sum(count for cell, count in self._left(range(len(self._cells))) if cell.kind == kind)
        return 0 if known or self._items[kind] >= min(enough, left) else enough

    def range_of(self, cells: Iterable[int]) -> tuple[float, float] | None:
        """The least and the most seconds of some of the cells; None without a measurement."""
        each = self._each(left := self._left(cells))
        if each is None:
            return None
        low = high = 0.0
        for cell, count in left:
            fastest, slowest = self._spread(cell, each[cell.kind])
            low, high = low + fastest * count, high + slowest * count
        return low, high

    def timed(self, cells: Iterable[int]) -> dict[Hashable, int]:
        """Number of timed items of each remaining kind; 0 for one estimated by its weight."""
        return {cell.kind: self._items.get(cell.kind, 0) for cell, _ in self._left(cells)}

    def _left(self, cells: Iterable[int]) -> list[tuple[Workload, int]]:
        left = ((self._cells[i], self.num_left(i)) for i in cells)
        return [(cell, count) for cell, count in left if count > 0]

    def _spread(self, cell: Workload, each: float) -> tuple[float, float]:
        """The least and the most seconds an item."""
        num, rates = self._items.get(cell.kind, 0), self._rates.get(cell.kind, [])
        few = next(((best, worst) for most, best, worst in _SPREAD if num < most), _MANY)
        best, worst = _GUESSED if not num else few if cell.weight else _WHOLE
        return min(each / best, *rates, each), max(each * worst, *rates, each)

    def _each(self, left: Sequence[tuple[Workload, int]]) -> dict[Hashable, float] | None:
        """Seconds an item of every remaining kind; None where one of them cannot be estimated."""
        known = {cell.kind: cell.weight for cell in self._cells if cell.kind in self._items and cell.weight}
        weighed = sum(self._items[kind] * weight for kind, weight in known.items())
        if not weighed and any(cell.kind not in self._items and cell.weight for cell, _ in left):
            return None
        per_weight = sum(self._seconds[kind] for kind in known) / weighed if weighed else 0.0
        each: dict[Hashable, float] = {}
        for cell, _ in left:
            measured = self._items.get(cell.kind, 0)
            seconds = self._seconds[cell.kind] / measured if measured else cell.weight * per_weight
            each[cell.kind] = min(seconds, self._most.get(cell.kind, seconds))
        return each

    @property
    def unknown(self) -> int:
        """Number of remaining pieces without weight and measurement."""
        return sum(
            not cell.weight and cell.kind not in self._items and done < cell.num_items
            for cell, done in zip(self._cells, self._done, strict=True)
        )
