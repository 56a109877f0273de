"""Progress table of a study: a line for each arm with its state and the time left, estimated from finished work.

Where stderr is not a terminal, a plain line is printed for each finished piece, and one every half minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from layercut.progress import OnProgress
from layercut.progress.cost import Eta
from layercut.progress.cost import Workload as Work
from layercut.progress.heartbeat import clock, line
from layercut.progress.table import ProgressTable
from layercut.text.counting import counted
from layercut.text.tables import bare_table

State = Literal["waiting", "searching", "asking", "healing", "finished", "failed"]
_STYLES = {"finished": "green", "failed": "red", "waiting": "dim"}
_STATE, _BETWEEN = 26, 6
"""Characters for an arm's state on a narrow terminal, and for the spaces between columns."""
_AROUND = 10


class StudyStep(NamedTuple):
    """One piece of a study's work: a cell of an arm, a search, or a healing."""

    arm: str
    """The arm whose line counts it; empty for none."""
    name: str
    work: Work


@dataclass
class _Line:
    """The state of one arm."""

    total: int = 0
    done: int = 0
    state: State = "waiting"
    note: str = ""


class StudyProgress(ProgressTable):
    """Progress over the pieces of a study."""

    def __init__(self, pieces: Sequence[StudyStep], console: Console) -> None:
        """Nothing is shown yet."""
        super().__init__(console)
        self._pieces = list(pieces)
        self._eta = Eta([piece.work for piece in pieces])
        self._lines: dict[str, _Line] = {piece.arm: _Line() for piece in pieces if piece.arm}
        self._of: dict[str, list[int]] = {name: [] for name in self._lines}
        for index, piece in enumerate(pieces):
            if piece.arm:
                self._of[piece.arm].append(index)
                if piece.work.is_item:
                    self._lines[piece.arm].total += piece.work.num_items
        self._active = ""
        self._in_cell = False
        """True once the answers of the present cell are counted."""
        self._doing = ""
        """The current step, for the line of every half minute."""

    def learn(self, kind: Hashable, num_items: int, seconds: float) -> None:
        self._eta.learn(kind, num_items, seconds)

    def state(self, arm: str, state: State, note: str = "") -> None:
        line = self._lines[arm]
        line.state, line.note = state, note
        if state not in ("finished", "failed", "waiting"):
            self._active = arm

    def skip(self, index: int) -> None:
        """Count what is left of a piece that was done before, or has failed."""
        left = self._eta.num_left(index)
        self._eta.skip(index, left)
        self._show(index, left)

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Do a piece without items, such as a search."""
        start = time.monotonic()
        self._begin(index, self._name(index))
        yield
        self._eta.advance(index, 1, time.monotonic() - start)
        self._show(index, 1)
        self._tell(index, clock(time.monotonic() - start))

    @contextmanager
    def cell(self, index: int) -> Iterator[OnProgress]:
        """Do one cell: the block reports (items done, items in all), first with those done before."""
        piece = self._pieces[index]
        self.state(piece.arm, "asking", piece.name)
        self._begin(index, f"{piece.arm}: scoring {piece.name}")
        start, seen, known = time.monotonic(), 0, not self._eta.num_left(index)

        def count_items(new: int, done: int, total: int) -> None:
            nonlocal seen
            self._show(index, new)
            self._in_cell, seen = True, done
            self._doing = f"{piece.arm}: scoring {piece.name}: {done:,} of {counted(total, 'item')}"

        try:
            yield self._eta.reports(index, count_items)
        except BaseException:
            self.skip(index)  # it failed, so no time is left for it
            raise
        finally:
            self._in_cell = False
        if not known:  # it was told of with others
            self._tell(index, f"{counted(seen, 'item')}, {clock(time.monotonic() - start)}")

    @contextmanager
    def cells(self, indices: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
        """Do some cells of one task at once: the block reports (index, new items)."""
        pieces = [self._pieces[index] for index in indices]
        for piece in pieces:
            self.state(piece.arm, "asking", piece.name)
        arms, name = ", ".join(piece.arm for piece in pieces), pieces[0].name
        self._begin(indices[0], f"{arms}: scoring {name}")
        start, count = time.monotonic(), 0
        last, total = start, sum(self._eta.num_left(index) for index in indices)

        def report(index: int, num_items: int) -> None:
            nonlocal last, count
            now = time.monotonic()
            self._eta.advance(index, num_items, now - last)
            self._show(index, num_items)
            last, count = now, count + num_items
            self._doing = f"{arms}: scoring {name}: {count:,} of {counted(total, 'item')}"

        try:
            yield report
        except BaseException:
            for index in indices:
                self.skip(index)  # no time is left for them if they fail alone, too
            raise
        if count:
            line(self._console, f"{arms}: {name}: {counted(count, 'item')}, {clock(time.monotonic() - start)}")

    def searching(self, what: str, done: int, total: int) -> None:
        if self._active:
            self._lines[self._active].note = f"{what} {done}/{total}"
            self._doing = f"{self._active}: choosing layers: {what} {done:,} of {total:,}"

    def remaining(self) -> str:
        if self._in_cell:
            self._eta.bound(self._tokens.seconds_left)
        seconds = self._eta.remaining
        if seconds is None:
            return ""
        unknown = self._eta.unknown
        steps = "1 untimed search or healing run" if unknown == 1 else f"{unknown} untimed searches or healing runs"
        more = f", excluding {steps}" if unknown else ""
        return f"{clock(seconds)} left{more}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """All arms, or those around the current one where the terminal is too low for all."""
        table = bare_table()
        names = list(self._lines)
        count = max([len("items"), *(len(f"{line.total}/{line.total}") for line in self._lines.values())])
        rest = options.max_width - count - len("time left") - _BETWEEN
        longest = min(max(map(len, names), default=3), max(12, rest - _STATE))
        table.add_column("arm", no_wrap=True, overflow="ellipsis", min_width=longest)
        table.add_column("state", no_wrap=True, overflow="ellipsis", max_width=max(8, rest - longest))
        table.add_column("items", justify="right", no_wrap=True, min_width=count)
        table.add_column("time left", justify="right", no_wrap=True, min_width=len("time left"))
        room = max(4, console.height - _AROUND)
        first = 0
        if len(names) > room:
            first = max(0, min(names.index(self._active) - room // 2 if self._active else 0, len(names) - room))
        for name in names[first : first + room]:
            line = self._lines[name]
            state = f"{line.state}: {line.note}" if line.note else line.state
            table.add_row(
                _middle(name, longest),
                Text(state, style=_STYLES.get(line.state, "cyan")),
                f"{line.done}/{line.total}",
                self._left(name),
            )
        hidden = len(names) - min(room, len(names))
        finished = sum(line.state == "finished" for line in self._lines.values())
        failed = sum(line.state == "failed" for line in self._lines.values())
        return self._drawn(
            table,
            f"{finished} of {counted(len(names), 'arm')} finished",
            f"{failed} failed" if failed else "",
            f"{hidden} not shown" if hidden else "",
            left=self.remaining() or "time left: after the first items",
        )

    def _left(self, name: str) -> str:
        if self._lines[name].state in ("finished", "failed"):
            return ""
        seconds = self._eta.remaining_of(self._of[name])
        return "?" if seconds is None else clock(seconds)

    def _show(self, index: int, num_items: int) -> None:
        piece = self._pieces[index]
        if piece.arm and piece.work.is_item:
            self._lines[piece.arm].done += num_items

    def _begin(self, index: int, doing: str) -> None:
        self._eta.begin(index)
        self._doing = doing
        self._tokens.begin()

    def _now(self) -> str:
        facts = [self._doing or "Preparing the study", self._tokens.describe(), self.remaining()]
        return ", ".join(fact for fact in facts if fact)

    def _name(self, index: int) -> str:
        piece = self._pieces[index]
        return f"{piece.arm}: {piece.name}" if piece.arm else piece.name

    def _tell(self, index: int, what: str) -> None:
        rest = self.remaining()
        line(self._console, f"{self._name(index)}: {what}{', ' if rest else ''}{rest}")


def _middle(name: str, width: int) -> str:
    """A name that is too long loses its middle: names of a cut and of its healing differ at their ends."""
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - half]}…{name[-half:]}"
