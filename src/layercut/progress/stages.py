"""Progress table of prune: a line for each stage and depth with what is kept so far, and the number of the step.

No time is left that was not measured: how deep a path goes is open, so only the present counter has a time left.

Where stderr is not a terminal, a plain line is printed for each finished step, and one every half minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from layercut.progress.heartbeat import clock, line
from layercut.progress.table import ProgressTable
from layercut.text.tables import bare_table

_AROUND = 8
"""Lines that the terminal needs for other things."""


@dataclass
class _Row:
    """The state of one stage or depth."""

    doing: str = ""
    chosen: str = ""
    """Retained score on selection items."""
    shown: str = ""
    """Retained score on report items."""
    style: str = ""


class StageProgress(ProgressTable):
    """The stages of one run of prune, in the order in which they begin."""

    def __init__(self, console: Console, steps: Sequence[str] = ()) -> None:
        """Nothing is shown yet.

        Args:
            console: where it is shown.
            steps: names of the steps of the run, in order; see ``step``.
        """
        super().__init__(console)
        self._steps, self._at = list(steps), 0
        self._rows: dict[str, _Row] = {}
        self._active = ""
        self._step = ""
        """Progress of the active stage."""
        self._counters: dict[str, tuple[int, int]] = {}
        """By name, of the active stage: how often it began, and what is done."""
        self._step_began: tuple[str, int, float] = ("", 0, 0.0)
        """Its name, what was done when it began, and when that was."""
        self._cells: list[str] = []

    def step(self, name: str) -> None:
        """A step of the run begins; the number never falls, and a name that is no step changes nothing."""
        self._at = max(self._at, self._steps.index(name) + 1 if name in self._steps else 0)

    def begin(self, stage: str, doing: str) -> None:
        """A stage or depth is worked on."""
        self._rows.setdefault(stage, _Row()).doing = doing
        self._active, self._step = stage, ""
        self._counters.clear()
        self._tokens.begin()

    def end(self, stage: str, *, chosen: str = "", shown: str = "", note: str = "", style: str = "") -> None:
        """It is done; what is left out stays as it was."""
        row = self._rows.setdefault(stage, _Row())
        row.doing, row.style = note, style or row.style
        row.chosen, row.shown = chosen or row.chosen, shown or row.shown
        facts = [note, chosen and f"keeps {chosen} on selection items", shown and f"keeps {shown} on report items"]
        line(self._console, f"{stage}: {', '.join(fact for fact in [*facts, self._position] if fact)}")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pieces of the active stage; as criteria and searches report them."""
        if done == 0:
            self._tokens.begin()
        part, before = self._counters.get(what, (1, 0))
        part += done < before
        self._counters[what] = (part, done)
        self._step = f"{what}{f', part {part}:' if part > 1 else ''} {done:,} of {total:,}"
        if self._step_began[0] != what or done <= self._step_began[1]:
            self._step_began = (what, done, time.monotonic())
        _, first, since = self._step_began
        if first < done < total:
            left = (time.monotonic() - since) / (done - first) * (total - done)
            self._step += f", {clock(left)} left of this step"

    def cells(self, labels: list[str]) -> None:
        """Names of the pieces that ``piece`` and ``skip`` speak of."""
        self._cells = labels

    def skip(self, index: int) -> None:
        """A piece was there already."""
        self._step = f"{self._cells[index]}: known"

    @contextmanager
    def piece(self, index: int) -> Iterator[Callable[[int, int], None]]:
        """Work one piece: the block calls what it gets with (items done, items in all)."""
        self._tokens.begin()
        yield lambda done, total: self(self._cells[index], done, total)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The last lines where the terminal is too low for all."""
        table = bare_table()
        table.add_column("stage", no_wrap=True, overflow="ellipsis", min_width=10)
        table.add_column("state", no_wrap=True, overflow="ellipsis", max_width=max(12, options.max_width - 44))
        keeps = any(row.chosen or row.shown for row in self._rows.values())
        for name in ("kept, selection", "kept, report") if keeps else ():
            table.add_column(name, justify="right", no_wrap=True)
        for name in list(self._rows)[-max(4, console.height - _AROUND) :]:
            row = self._rows[name]
            doing = (self._step or row.doing) if name == self._active else row.doing
            table.add_row(name, Text(doing, style=row.style or "cyan"), *([row.chosen, row.shown] if keeps else []))
        return self._drawn(table, left=self._position)

    def _now(self) -> str:
        doing = self._rows[self._active].doing if self._active else "loading the model"
        facts = [f"{self._active}: {doing}" if self._active else doing, self._step, self._tokens.describe()]
        return ", ".join(fact for fact in [*facts, self._position] if fact)

    @property
    def _position(self) -> str:
        """``step 2 of 6``; empty before the first."""
        return f"step {self._at} of {len(self._steps)}" if self._at else ""
