"""Progress lines where stderr is not a terminal: at least one every half minute, during any work.

    with under_way(console, lambda: "Answering gsm8k: 3 of 8 items"):
        ...

Blocks nest: the innermost one is described. Terminals have live bars and tables instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import NamedTuple

from rich.console import Console, RenderableType

from layercut.progress.activity import listening

EVERY = 30.0
"""Seconds without a line, at most."""


class _Step(NamedTuple):
    console: Console
    describe: Callable[[], str]


_steps: list[_Step] = []
_last_line = 0.0


def line(console: Console, text: str) -> None:
    """Print a line, unless a terminal shows the same in bars or tables."""
    global _last_line
    if not console.is_terminal:
        _last_line = time.monotonic()
        console.print(text, markup=False, soft_wrap=True)


@contextmanager
def live(table: RenderableType, console: Console, tokens: Tokens, describe: Callable[[], str]) -> Iterator[None]:
    """Show a table inside the block; the bar of a step is shown below it. Without a terminal, as ``under_way``."""
    from rich.live import Live

    with tokens.counted(), under_way(console, describe):
        if not console.is_terminal:
            yield
            return
        with Live(table, console=console, refresh_per_second=4, vertical_overflow="crop"):
            yield


@contextmanager
def under_way(console: Console, describe: Callable[[], str]) -> Iterator[None]:
    """Inside the block, print what ``describe`` returns whenever ``EVERY`` seconds pass without a line."""
    global _last_line
    if console.is_terminal:
        yield
        return
    step, stop = _Step(console, describe), Event()
    if not _steps:
        _last_line = time.monotonic()
        Thread(target=_watch, args=(stop,), name="layercut heartbeat", daemon=True).start()
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)
        stop.set()


def _watch(stop: Event) -> None:
    """Runs in a thread until the outermost block ends."""
    while not stop.wait(min(1.0, EVERY / 4)):
        if time.monotonic() - _last_line >= EVERY and _steps:
            console, describe = _steps[-1]
            line(console, describe())


class Tokens:
    """Tokens that engines write, counted for one step, and what is done in between. A ``Listener``."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.written = 0
        self.left: int | None = None
        self.most = 0
        """Answers that were in progress at once."""
        self._seconds = 0.0
        """Seconds of writing; other work is not counted."""
        self._last = time.monotonic()
        self._doing = ""

    @contextmanager
    def counted(self) -> Iterator[None]:
        with listening(self):
            yield

    def describe(self, *, short: bool = False) -> str:
        """``reading 4,210 tokens (45%)``, then ``512 tokens written (3.4/s), at most 3,584 left in this batch``; empty
        before either."""
        if self._doing:
            return self._doing
        if not self.written:
            return ""
        if short:
            return f"{self.written:,} tokens"
        rate = self.written / max(self._seconds, 1e-3)
        left = f", at most {self.left:,} left in this batch" if self.left else ""
        return f"{self.written:,} tokens written ({rate:.3g}/s){left}"

    def seconds_left(self, num_answers: int) -> float | None:
        """The most seconds that N answers still take at the speed so far, where all of them were begun together."""
        if not self.written or self.left is None or self.most != num_answers:
            return None
        return self.left * self._seconds / self.written

    def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
        self.written += num_tokens
        self.left, self.most = num_left, max(self.most, num_answers or 0)
        self._seconds += self._since_last()

    def works(self, what: str, share: float) -> None:
        self._since_last()
        if share < 1:
            self._doing = f"{what} ({share:.0%})"

    def _since_last(self) -> float:
        """Seconds since engines were last heard of."""
        before, self._last = self._last, time.monotonic()
        self._doing = ""
        return self._last - before


def clock(seconds: float) -> str:
    """``00:41``, ``1:02:03`` or ``2 days 03:00:00``.

    >>> clock(41), clock(3723.4)
    ('00:41', '1:02:03')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} day{'s' * (days > 1)} {hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute:02}:{second:02}"
