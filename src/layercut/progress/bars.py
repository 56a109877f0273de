"""Progress of a run: one bar over all cells, with the time left estimated from finished work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.progress import Task as Bar
from rich.table import Column
from rich.text import Text

from layercut.progress import OnProgress
from layercut.progress.cost import Eta
from layercut.progress.cost import Workload as Work
from layercut.progress.heartbeat import Tokens, clock, line, under_way

_KNOWN = 10
"""A step that is so many times as fast as the slowest was known before."""


class _Facts(ProgressColumn):
    """The state of a bar: ``3/8 items · 4,210 tokens · 01:12 · 00:41 left``."""

    max_refresh = 0.25

    def __init__(self, unit: str | None, tokens: Tokens, left: Callable[[Bar], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit, self._tokens, self._left = unit, tokens, left

    def render(self, task: Bar) -> Text:
        count = f"{int(task.completed):,}/{int(task.total or 0):,}"
        facts = [f"{task.percentage:.0f}%" if self._unit is None else f"{count} {self._unit}".rstrip()]
        facts += [self._tokens.describe(short=True)] if not task.finished else []
        facts += [clock(task.elapsed or 0)]
        facts += [] if task.finished else [self._left(task)]
        return Text(" · ".join(fact for fact in facts if fact), style="cyan")


def _bars(console: Console, unit: str | None, tokens: Tokens, left: Callable[[Bar], str]) -> Progress:
    """Bars that fit on 80 columns: a name that is too long ends in an ellipsis, and nothing is wrapped."""
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=12, table_column=Column(no_wrap=True, min_width=4)),
        _Facts(unit, tokens, left),
        console=console,
        disable=not console.is_terminal,
    )


class Progressing:
    """Progress over a list of pieces of work with names.

    Where stderr is no terminal, one plain line is printed for each piece when it ends, and one every half minute.
    """

    def __init__(
        self, work: Sequence[tuple[str, Work]], console: Console, *, verb: str = "", unit: str | None = "items"
    ) -> None:
        """Args:
        work: names and sizes.
        console: where it is shown.
        verb: of each piece, such as ``Scoring``; empty where the names include it.
        unit: of the sizes; None for steps without meaning to users, which are shown as a percentage.
        """
        self._names = [f"{verb} {name}".strip() for name, _ in work]
        self._work = [piece for _, piece in work]
        self._unit = unit
        self._eta = Eta(self._work)
        self._console = console
        self._tokens = Tokens()
        self._active: tuple[int, int] | None = None
        """The piece that is worked on, and how many of its items are done."""
        total = sum(piece.num_items for piece in self._work)
        self._bars = _bars(console, unit, self._tokens, lambda task: self._left())
        self._bar = self._bars.add_task("Loading", total=total)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._bars, self._tokens.counted(), under_way(self._console, self._now):
            yield

    def skip(self, index: int) -> None:
        """Count a whole piece that was done before."""
        count = self._work[index].num_items
        self._eta.skip(index, count)
        self._bars.advance(self._bar, count)

    @contextmanager
    def piece(self, index: int) -> Iterator[OnProgress]:
        """Do one piece: the block reports (items done, items in all), first with those done before."""
        self._bars.update(self._bar, description=self._names[index])
        self._active = (index, 0)
        self._tokens.begin()
        start, seen = time.monotonic(), 0

        def count_items(new: int, done: int, total: int) -> None:
            nonlocal seen
            self._bars.advance(self._bar, new)
            self._active, seen = (index, done), done

        yield self._eta.reports(index, count_items)
        self._active = None
        count = f"{seen} {self._counted(seen)}, " if self._unit else ""
        line(self._console, f"{self._names[index]}: {count}{clock(time.monotonic() - start)}{self._rest()}")

    def _now(self) -> str:
        if self._active is None:
            return f"Loading or writing{self._rest()}"
        index, done = self._active
        total = self._work[index].num_items
        count = f"{done:,} of {total:,} {self._counted(total)}" if self._unit else f"{done / max(1, total):.0%}"
        tokens = self._tokens.describe()
        return f"{self._names[index]}: {count}{', ' if tokens else ''}{tokens}{self._rest()}"

    def _counted(self, count: int) -> str:
        assert self._unit is not None
        return self._unit.removesuffix("s") if count == 1 else self._unit

    def _left(self) -> str:
        """The time of all pieces, or of the present one until every kind of piece was measured."""
        if self._active is not None:
            self._eta.bound(self._tokens.seconds_left)
        if (seconds := self._eta.remaining) is not None:
            return f"{clock(seconds)} left"
        here = None if self._active is None else self._eta.remaining_here
        return "" if here is None else f"{clock(here)} left of this step"

    def _rest(self) -> str:
        if left := self._left():
            return f", {left}"
        wanted = self._eta.wanted
        return f", time left: after {wanted} {self._counted(wanted) if self._unit else 'steps'}" if wanted else ""


@contextmanager
def watched(name: str, total: int, console: Console, unit: str) -> Iterator[OnProgress]:
    """Progress over one piece of work: the block calls what it gets with (pieces done, pieces in all)."""
    progress = Progressing([(name, Work(kind=name, num_items=total))], console, unit=unit)
    with progress.running(), progress.piece(0) as on_progress:
        yield on_progress


class _Pace:
    """The time left of counted work, by its own steps. Those that were known before take next to no time, and do not
    count."""

    def __init__(self) -> None:
        self._done, self._total, self._since = 0, 0, time.monotonic()
        self._steps: list[tuple[float, int]] = []
        """Seconds, and how much was done in them."""

    def reach(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done > self._done:
            self._steps.append((now - self._since, done - self._done))
        self._done, self._total, self._since = done, total, now

    @property
    def left(self) -> float | None:
        """Seconds; None before a step has ended that was not known."""
        spent = time.monotonic() - self._since
        longest = max(spent, *(seconds / count for seconds, count in self._steps), 0.0)
        slow = [(seconds, count) for seconds, count in self._steps if _KNOWN * seconds / count >= longest]
        if not slow:
            return None
        each = sum(seconds for seconds, _ in slow) / sum(count for _, count in slow)
        return max(0.0, each * (self._total - self._done) - min(each, spent))


class SelectionProgress:
    """Progress of a criterion: one bar for each kind of work, such as rounds and items, with the time left of each.

    Where stderr is no terminal, there is a plain line every half minute, with the time left of what began first.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tokens = Tokens()
        self._bars = _bars(console, "", self._tokens, self._left)
        self._ids: dict[str, TaskID] = {}
        self._paces: dict[TaskID, _Pace] = {}
        self._counts: dict[str, str] = {}
        self._held = ExitStack()

    def __enter__(self) -> SelectionProgress:
        for block in (self._bars, self._tokens.counted(), under_way(self._console, self._now)):
            self._held.enter_context(block)
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._ids:
            self._ids[what] = self._bars.add_task(what)
        bar = self._ids[what]
        if done == 0:
            self._bars.reset(bar)
            self._tokens.begin()
        if done == 0 or bar not in self._paces:
            self._paces[bar] = _Pace()
        self._paces[bar].reach(done, total)
        self._bars.update(bar, completed=done, total=total)
        self._counts[what] = f"{what} {done:,} of {total:,}"
        if done >= total:  # a bar of finished work would look as if it were at work
            del self._counts[what]
            self._bars.remove_task(self._ids.pop(what))

    def _left(self, bar: Bar) -> str:
        pace = self._paces.get(bar.id)
        return "" if pace is None or pace.left is None else f"{clock(pace.left)} left"

    def _now(self) -> str:
        facts = [*self._counts.values(), self._tokens.describe()]
        bar = self._ids.get(next(iter(self._counts), ""))
        if bar is not None and (left := self._paces[bar].left) is not None:
            facts.append(f"{clock(left)} left")
        return f"Choosing layers: {', '.join(fact for fact in facts if fact) or 'loading the model'}"
