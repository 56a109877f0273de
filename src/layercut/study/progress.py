"""What a run shows on its way: one bar over all cells, with the time that is left judged by what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from layercut.study.eta import Cell as Work
from layercut.study.eta import Eta

if TYPE_CHECKING:
    from rich.progress import Task as Bar

CHARACTERS_PER_TOKEN = 4
ITEM_COST = 100
"""What an item costs whatever its length, in prompt tokens: small batches are bound by overhead, not by arithmetic."""
DECODE_COST = 16
"""One decoded token takes about as long as this many prompt tokens in a batch; only a first guess."""


class _Remaining(ProgressColumn):
    """Time left, or what is being waited for."""

    def __init__(self, eta: Eta) -> None:
        super().__init__()
        self._eta = eta

    def render(self, task: Bar) -> Text:
        seconds = self._eta.remaining
        if seconds is None:
            return Text("time left: measuring", style="cyan")
        return Text(f"time left: about {timedelta(seconds=round(seconds))}", style="cyan")


class Progressing:
    """Progress over a list of pieces of work, named and weighed beforehand.

    Where stderr is no terminal, one plain line is printed for each piece when it ends.
    """

    def __init__(self, work: Sequence[tuple[str, Work]], console: Console) -> None:
        self._names = [name for name, _ in work]
        self._work = [piece for _, piece in work]
        self._eta = Eta(self._work)
        self._console = console
        total = sum(piece.num_items for piece in self._work)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Remaining(self._eta),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._bars.add_task("starting", total=total)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar inside the block."""
        with self._bars:
            yield

    def skip(self, index: int) -> None:
        """A whole piece was there already."""
        count = self._work[index].num_items
        self._eta.skip(index, count)
        self._bars.advance(self._bar, count)

    @contextmanager
    def piece(self, index: int) -> Iterator[Callable[[int, int], None]]:
        """Work one piece: the block calls what it gets with (items done, items in all), first with what was there."""
        self._bars.update(self._bar, description=self._names[index])
        start = last = time.monotonic()
        seen: int | None = None

        def on_progress(done: int, total: int) -> None:
            nonlocal seen, last
            now = time.monotonic()
            if seen is None:
                self._eta.skip(index, done)
                self._bars.advance(self._bar, done)
            else:
                self._eta.advance(index, done - seen, now - last)
                self._bars.advance(self._bar, done - seen)
            seen, last = done, now

        yield on_progress
        if not self._console.is_terminal:
            left = self._eta.remaining
            rest = "" if left is None else f", about {timedelta(seconds=round(left))} left"
            self._console.print(
                f"{self._names[index]}: {seen or 0} items, {time.monotonic() - start:.0f} s{rest}",
                markup=False,
                soft_wrap=True,
            )


class SelectionProgress:
    """Progress of a criterion: one bar for each kind of work it reports, such as rounds and items."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._ids: dict[str, TaskID] = {}

    def __enter__(self) -> SelectionProgress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pieces done of one kind of work."""
        if what not in self._ids:
            self._ids[what] = self._bars.add_task(what)
        if done == 0:
            self._bars.reset(self._ids[what])
        self._bars.update(self._ids[what], completed=done, total=total)
