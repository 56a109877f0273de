"""Progress of runs: a line for each finished part, and what is going on now.

A terminal shows the present step in one live line with a bar; elsewhere a line is printed at least every half minute.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import dropwhile
from typing import Any, NamedTuple, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from layercut.progress import OnProgress
from layercut.progress.activity import Tokens, listening_to, print_above_live, under_way
from layercut.text import count_of

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


Work = Sequence[tuple[str, Workload]]
"""Pieces of work: names and sizes."""


def _joined(*facts: str, by: str = ", ") -> str:
    return by.join(fact for fact in facts if fact)


def _at_work(counters: TimeLeft) -> list[Any]:
    """Names of the counters that are not at their end, the one first that began first; or the last one."""
    names = list(counters.began)
    return [what for what in names if len({*counters.count([what])}) > 1] or names[-1:]


class RunProgress:
    """Progress of a run: in steps and stages, over pieces of work that are known before, and by counters that are not.

    The time left is that of all pieces, or of the present one until every kind was measured. How deep a search goes is
    open, so without pieces it is that of the first counter that is not at its end.
    """

    def __init__(
        self,
        console: Console,
        work: Work = (),
        *,
        unit: str | None = "items",
        steps: Sequence[str] = (),
        stage: str = "",
    ) -> None:
        """Args:
        unit: of the sizes; None for steps without meaning to users, which are shown as a percentage.
        steps: names of the steps of the run, in order; see ``step``.
        stage: the first one.
        """
        self._console, self._tokens, self._began = console, Tokens(), time.monotonic()
        self._unit, self._steps, self._at = unit and unit.removesuffix("s"), list(steps), 0
        self.begin(stage, "", work)

    def begin(self, stage: str, doing: str, work: Work = ()) -> None:
        """A stage or depth is worked on."""
        self._stage, self._doing, self._names = stage, doing, [name for name, _ in work]
        self._time = TimeLeft(dict(enumerate(piece for _, piece in work)))
        self.skip = self._time.skip
        self._begin_pieces([])

    def step(self, name: str) -> None:
        """A step of the run begins; the number never falls, and a name that is no step changes nothing."""
        self._at = max(self._at, self._steps.index(name) + 1 if name in self._steps else 0)

    def end(self, stage: str, *, chosen: str = "", shown: str = "", note: str = "") -> None:
        """A stage is done, with retained scores on selection items and on report items."""
        kept = [chosen and f"keeps {chosen} on selection items", shown and f"keeps {shown} on report items"]
        print_above_live(self._console, f"{stage}: {_joined(note, *kept, self._position)}")

    def __call__(self, what: str, done: int, total: int) -> None:
        """A counter of the present stage or piece, such as rounds or answers."""
        if done == 0:
            self._tokens.begin()
        self._counters.reach(what, done, total)

    @contextmanager
    def piece(self, index: int) -> Iterator[OnProgress]:
        """Do one piece: the block reports (items done, items in all), first with those done before.

        It need not report a piece of one item, such as a search.
        """
        with self.pieces([index]) as add:
            yield partial(self._time.reach, index)
            done, total = self._time.count([index])
            add(index, 1 - done if total == 1 else 0)

    @contextmanager
    def pieces(self, indices: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """Do some pieces at once: the block reports (index, new items). No time is left for pieces that fail."""
        self._begin_pieces(indices)
        began, (before, _) = time.monotonic(), self._time.count(indices)
        try:
            yield self._time.add
        except BaseException:
            for index in indices:
                self.skip(index)
            raise
        finally:
            self._active = list[int]()
        done, total = self._time.count(indices)
        if done > before and not self._stage:
            count = count_of(done, self._unit) if self._unit and total > 1 else ""
            facts = _joined(count, clock_text(time.monotonic() - began), self._left())
            names = ", ".join(self._names[index] for index in indices)
            print_above_live(self._console, f"{names}: {facts}")

    def _begin_pieces(self, indices: Sequence[int]) -> None:
        self._active = list[int](indices)
        self._time.begin(indices)
        self._counters = TimeLeft({})
        self._tokens.begin()

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Show the progress inside the block; that of a step within is shown below it."""
        live = Live(self, console=self._console, refresh_per_second=4, transient=True)
        shown = live if self._console.is_terminal else nullcontext()
        with listening_to(self._tokens), under_way(self._console, self._now), shown:
            yield self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(Column(width=12), Column(ratio=1), padding=(0, 1), expand=True)
        pieces, counters = self._time, self._counters
        done, total = pieces.count([*pieces.pieces]) if pieces.pieces else counters.count(_at_work(counters)[:1])
        now = Text(_joined(self._now(), f"{clock_text(time.monotonic() - self._began)} so far", by=" · "), style="cyan")
        table.add_row(ProgressBar(max(1, total), done, width=12), now)
        yield table

    def _now(self) -> str:
        """``Scoring gsm8k: 3 of 8 items, 512 tokens written (3.4/s), 00:41 left, step 2 of 6``."""
        piece, counts, counters = "", [], self._counters
        if active := self._active:
            done, total = self._time.count(active)
            count = f"{done:,} of {count_of(total, self._unit)}" if self._unit else f"{done / max(1, total):.0%}"
            piece = ", ".join(self._names[index] for index in active) + (f": {count}" if total > 1 else "")
        for what in _at_work(counters):
            part = f", part {counters.began[what]}:" if counters.began[what] > 1 else ""
            counts.append("{}{} {:,} of {:,}".format(what, part, *counters.count([what])))
        facts = _joined(self._doing, piece, *counts, self._tokens.describe(), self._left(), self._position)
        return _joined(self._stage, facts or "loading the model", by=": ")

    def _left(self) -> str:
        """``00:41 left``; empty where that is not known, or nothing is left."""
        pieces, counters = self._time, self._counters
        for time_left, names, of_what in (
            (pieces, [*pieces.pieces], ""),
            (pieces, self._active, " of this step"),
            (counters, _at_work(counters)[:1], ""),
        ):
            done, total = time_left.count(names)
            if done < total and (seconds := time_left.seconds(names)) is not None:
                return f"{clock_text(seconds)} left{of_what}"
        return ""

    @property
    def _position(self) -> str:
        """``step 2 of 6``; empty before the first."""
        if self._steps:
            return f"step {self._at} of {len(self._steps)}" if self._at else ""
        return f"step {self._active[0] + 1} of {len(self._names)}" if self._active and len(self._names) > 1 else ""


@contextmanager
def progress_bar(name: str, total: int, console: Console, unit: str) -> Iterator[OnProgress]:
    """Progress over one piece of work: the block calls what it gets with (pieces done, pieces in all)."""
    progress = RunProgress(console, [(name, Workload(kind=name, num_items=total))], unit=unit)
    with progress.running(), progress.piece(0) as on_progress:
        yield on_progress
