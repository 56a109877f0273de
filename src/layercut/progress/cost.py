"""The time left, from finished work of the same kind.

Items of different tasks differ in cost, so a share of items is not a share of time. Seconds per item are measured for
each kind of cell. The time left is known once every kind that is left was measured.

There is no time left before ``ENOUGH`` items of the present kind, or a quarter of them, were timed, and where an item
takes longer than twice all that was left.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import dropwhile

from layercut.progress import OnProgress

ENOUGH = 20  # timed items of a kind that give an estimate, where there are four times as many
_SHORT = 10.0  # seconds that an item may take longer than expected without a word
_KNOWN = 10  # the first steps were known before if they are so many times as fast as the slowest


def clock_text(seconds: float) -> str:
    """``00:41``, ``1:02:03`` or ``2 days 3:00:00``.

    >>> clock_text(41), clock_text(3723.4)
    ('00:41', '1:02:03')
    """
    return str(timedelta(seconds=round(seconds))).replace(", ", " ").removeprefix("0:")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable  # cells of one kind need the same time per item, such as one task and readout under several plans
    num_items: int
    is_item: bool = True  # False for a step such as a search: the time left excludes it until one of its kind was timed


class Eta:
    """Remaining seconds of a list of cells."""

    def __init__(self, cells: Sequence[Workload], bound: Callable[[int], float | None] = lambda num_items: None):
        """``bound`` gives the most seconds for the items that were left when the present cell began, whose first
        answers come late in a large batch, and all others soon after; None where unknown."""
        self.cells, self.bound = list(cells), bound
        self._done = [0] * len(cells)
        self._items, self._seconds = Counter[Hashable](), defaultdict[Hashable, float](float)  # timed, by kind
        # The present cell, when it began or its last item ended, and its items left when it began.
        self._at, self._since, self._begun = -1, 0.0, 0

    def learn(self, kind: Hashable, num_items: int, seconds: float) -> None:
        """Add a measurement, of an earlier run too: the time of items of a kind."""
        self._items[kind] += num_items
        self._seconds[kind] += seconds

    def begin(self, cell: int) -> None:
        """This cell is worked on now. What its next item has taken so far is no longer left."""
        self._at, self._since, self._begun = cell, time.monotonic(), 0

    def skip(self, cell: int, num_items: int | None = None) -> None:
        """Count items that were done before, or all that are left, without a time."""
        self._done[cell] += self.num_left(cell) if num_items is None else num_items
        if cell == self._at:
            self._since = time.monotonic()

    def advance(self, cell: int, num_items: int, seconds: float) -> None:
        """Count items of a cell that took ``seconds``."""
        self.skip(cell, num_items)
        self.learn(self.cells[cell].kind, num_items, seconds)

    def reports(self, cell: int) -> OnProgress:
        """Take (items done, items in all) of a cell that has begun, first with those done before, without a time."""
        last = None

        def on_progress(done: int, total: int) -> None:
            nonlocal last
            now, new = time.monotonic(), done - self._done[cell]
            if last is None:
                self.skip(cell, new)
                self._begun = total - done
            else:
                self.advance(cell, new, now - last)
            last = now

        return on_progress

    def count(self, cells: Iterable[int]) -> tuple[int, int]:
        """Items done, and items in all, of some cells."""
        indices = list(cells)
        return sum(self._done[i] for i in indices), sum(self.cells[i].num_items for i in indices)

    def num_left(self, cell: int) -> int:
        """Items of a cell that are not counted yet."""
        return self.cells[cell].num_items - self._done[cell]

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing has been measured."""
        return self.remaining_of(range(len(self.cells)))

    def remaining_of(self, cells: Iterable[int]) -> float | None:
        """Seconds of some of the cells; None where a kind of them was not measured, or too little."""
        indices = [i for i in cells if self.num_left(i) > 0]
        kinds = {self.cells[i].kind: self.cells[i].is_item for i in indices}
        if any((is_item and not self._items[kind]) or self.wanted(kind) for kind, is_item in kinds.items()):
            return None
        each = {kind: min(self._seconds[kind] / (self._items[kind] or 1), self._most(kind)) for kind in kinds}
        rest = sum(each[self.cells[i].kind] * self.num_left(i) for i in indices)
        if self._at not in indices:
            return rest
        spent = time.monotonic() - self._since
        rest -= min(spent, each[self.cells[self._at].kind])
        return None if spent > max(2 * rest, _SHORT) else rest

    def wanted(self, kind: Hashable) -> int:
        """Items of a kind that have to be timed before there is an estimate; 0 where none or enough were."""
        same = [i for i, cell in enumerate(self.cells) if cell.kind == kind]
        enough = min(ENOUGH, math.ceil(max(self.cells[i].num_items for i in same) / 4))
        left = sum(max(0, self.num_left(i)) for i in same)
        is_known = self._most(kind) < math.inf or (self._items[kind] or enough) >= min(enough, left)
        return 0 if is_known else enough

    @property
    def unknown(self) -> int:
        """Number of remaining steps that are no items and were never timed."""
        steps = [i for i, cell in enumerate(self.cells) if not cell.is_item and not self._items[cell.kind]]
        return sum(self.num_left(i) > 0 for i in steps)

    def _most(self, kind: Hashable) -> float:
        """Seconds an item at most; infinite where unknown."""
        is_present = self._at >= 0 and self.cells[self._at].kind == kind and self.num_left(self._at) > 0
        seconds = self.bound(self._begun) if is_present else None
        return math.inf if seconds is None else seconds / self.num_left(self._at)


class Pace:
    """The time left of one counter, by its own steps, without the first ones if they were known before."""

    def __init__(self) -> None:
        self.done, self.total, self.part = 0, 0, 1  # part: how often it began
        self._since, self._steps = 0.0, list[tuple[float, int]]()  # seconds, and how much was done in them

    def reach(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0 or done < self.done or self.done >= self.total:
            self.part, self._steps = self.part + (done < self.done), []
        elif done > self.done:
            self._steps.append((now - self._since, done - self.done))
        self.done, self.total, self._since = done, total, now

    @property
    def left(self) -> str:
        """``00:41 left``; empty before a step has ended that was not known, and at the end."""
        spent = time.monotonic() - self._since
        longest = max([spent, *(seconds / count for seconds, count in self._steps)])
        timed = list(dropwhile(lambda step: _KNOWN * step[0] / step[1] < longest, self._steps))
        if not timed or self.done >= self.total:
            return ""
        each = sum(seconds for seconds, _ in timed) / sum(count for _, count in timed)
        return f"{clock_text(max(0.0, each * (self.total - self.done) - min(each, spent)))} left"
