"""The time left, from finished items of the same kind.

Items of different tasks differ in cost, so a share of items is not a share of time. Seconds per item are measured for
each kind of work. The time left is known once every kind that is left was measured on ``ENOUGH`` items, or on a quarter
of them, and until an item takes longer than twice all that was left.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from datetime import timedelta
from itertools import dropwhile
from typing import NamedTuple

ENOUGH = 20  # timed items of a kind that give an estimate, where there are four times as many
_SHORT = 10.0  # seconds that an item may take longer than expected without a word
_KNOWN = 10  # the first items were known before if they are so many times as fast as the slowest


def clock_text(seconds: float) -> str:
    """``00:41``, ``1:02:03`` or ``2 days 3:00:00``."""
    return str(timedelta(seconds=round(seconds))).replace(", ", " ").removeprefix("0:")


class Workload(NamedTuple):
    """A piece of work: ``num_items`` items of the same kind."""

    kind: Hashable  # pieces of one kind need the same time per item, such as one task and readout under several plans
    num_items: int


class TimeLeft:
    """Items done, and remaining seconds, of pieces of work by name or number. Another thread may read it."""

    def __init__(self, pieces: Mapping[Hashable, Workload]) -> None:
        self.pieces, self.done = dict(pieces), Counter[Hashable]()
        self.began = Counter[Hashable]()  # how often each piece began, the first one first
        self._since: dict[Hashable, float] = {}  # when pieces that are worked on began, or their last item ended
        self._last = 0.0  # when work on pieces that are worked on at once began, or an item of them ended
        self._steps = defaultdict[Hashable, list[tuple[float, int]]](
            list
        )  # seconds and items that ended in them, by kind

    def begin(self, pieces: Iterable[Hashable]) -> None:
        """Work on some pieces begins: the next items that ``reach`` reports were done before."""
        self._last = time.monotonic()
        for piece in pieces:
            self._since.pop(piece, None)

    def reach(self, piece: Hashable, done: int, total: int) -> None:
        """So many items of a piece are done; of one that begins, or begins again, without a time."""
        self.pieces[piece] = self.pieces.get(piece, Workload(piece, total))._replace(num_items=total)
        now, new = time.monotonic(), done - self.done[piece]
        self.began[piece] += new < 0 or piece not in self._since
        if new > 0 and piece in self._since:
            self._steps[self.pieces[piece].kind].append((now - self._since[piece], new))
        if new or piece not in self._since:
            self.done[piece], self._since[piece] = done, now

    def add(self, piece: Hashable, num_items: int) -> None:
        """Count items of one of several pieces that are worked on at once."""
        if num_items:
            self.done[piece] += num_items
            since, self._last = self._last, time.monotonic()
            self._steps[self.pieces[piece].kind].append((self._last - since, num_items))

    def skip(self, piece: Hashable) -> None:
        """Count all items that are left, without a time."""
        self.done[piece] = self.pieces[piece].num_items

    def count(self, pieces: Iterable[Hashable]) -> tuple[int, int]:
        """Items done, and items in all, of some pieces."""
        names = list(pieces)
        return sum(self.done[name] for name in names), sum(self.pieces[name].num_items for name in names)

    def seconds(self, pieces: Iterable[Hashable]) -> float | None:
        """Seconds that some pieces still take; None where a kind of them was not measured, or too little."""
        left = {name: num for name in pieces if (num := self.pieces[name].num_items - self.done[name]) > 0}
        rest = spent = 0.0
        for name, num in left.items():
            if (each := self._seconds_each(self.pieces[name].kind)) is None:
                return None
            rest += each * num
            if (since := self._since.get(name)) is not None:
                spent = time.monotonic() - since
                rest -= min(spent, each)
        return None if spent > max(2 * rest, _SHORT) else rest

    def _seconds_each(self, kind: Hashable) -> float | None:
        """Seconds an item; None before enough of them were timed."""
        steps, same = self._steps[kind], [name for name, piece in list(self.pieces.items()) if piece.kind == kind]
        longest = max((seconds / num for seconds, num in steps), default=0.0)
        timed = list(dropwhile(lambda step: _KNOWN * step[0] / step[1] < longest, steps))
        items, left = sum(num for _, num in timed), sum(self.pieces[name].num_items - self.done[name] for name in same)
        enough = min(ENOUGH, math.ceil(max(self.pieces[name].num_items for name in same) / 4), left)
        return sum(seconds for seconds, _ in timed) / items if items >= max(enough, 1) else None
