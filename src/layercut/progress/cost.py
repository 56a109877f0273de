"""Estimate the time left for a list of cells from the finished ones.

Items of different tasks differ in cost, so a share of items is not a share of time. Seconds per item are measured for
each kind of cell. The time left is known once every kind that is left was measured.

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


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable
    """Cells of one kind need the same time per item, such as one task and readout under several plans."""
    num_items: int
    is_item: bool = True
    """False for a step such as a search: the time left excludes it until one of its kind was timed."""


class Eta:
    """Remaining seconds of a list of cells."""

    def __init__(self, cells: Sequence[Workload]) -> None:
        self._cells = list(cells)
        self._done = [0] * len(cells)
        self._items: dict[Hashable, int] = {}
        self._seconds: dict[Hashable, float] = {}
        self._learned: set[Hashable] = set()
        """Kinds that an earlier run timed."""
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
            self._learned.add(kind)

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        return self.remaining_of(range(len(self._cells)))

    def remaining_of(self, cells: Iterable[int]) -> float | None:
        """Seconds of some of the cells; None where a kind of them was not measured, or too little."""
        indices = list(cells)
        left = self._left(indices)
        if any((cell.is_item and cell.kind not in self._items) or self._wanted(cell.kind) for cell, _ in left):
            return None
        each = {cell.kind: self._each(cell.kind) for cell, _ in left}
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
        known = kind in self._learned or kind in self._most or kind not in self._items
        left = sum(count for cell, count in self._left(range(len(self._cells))) if cell.kind == kind)
        return 0 if known or self._items[kind] >= min(enough, left) else enough

    def _left(self, cells: Iterable[int]) -> list[tuple[Workload, int]]:
        left = ((self._cells[i], self.num_left(i)) for i in cells)
        return [(cell, count) for cell, count in left if count > 0]

    def _each(self, kind: Hashable) -> float:
        """Seconds an item of a kind; 0 where none was timed."""
        if kind not in self._items:
            return 0.0
        seconds = self._seconds[kind] / self._items[kind]
        return min(seconds, self._most.get(kind, seconds))

    @property
    def unknown(self) -> int:
        """Number of remaining steps that are no items and were never timed."""
        return sum(
            not cell.is_item and cell.kind not in self._items and done < cell.num_items
            for cell, done in zip(self._cells, self._done, strict=True)
        )
