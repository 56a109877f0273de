"""Activity inside one batch, and lines that say what is going on where stderr is not a terminal.

Engines call ``report_tokens`` after each step, and ``report_share`` while they read prompts; so does training within a
step. So long prompts, answers and steps show progress before they end. Listening changes no result.

    with under_way(console, lambda: "Answering gsm8k: 3 of 8 items"):
        ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from layercut.text import printable_text

EVERY = 30.0  # seconds without a line, at most
_listeners: list[Tokens] = []
_steps: list[tuple[Console, Callable[[], str]]] = []
_last_line = 0.0


def report_tokens(num_tokens: int, num_left: int | None = None) -> None:
    """Report new tokens, and the most that the answers in progress may still get; None where unknown."""
    for listener in tuple(_listeners):
        listener.wrote(num_tokens, num_left)


def report_share(what: str, share: float) -> None:
    """Report the share that is done of ``reading 8,210 tokens``, or of other work that is done at once."""
    for listener in tuple(_listeners):
        listener.works(what, share)


@contextmanager
def listening_to(listener: Tokens) -> Iterator[None]:
    """Notify ``listener`` inside the block of all that any engine or training of this process does."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def muted_activity() -> Iterator[None]:
    """Notify nobody inside the block: it belongs to a larger piece of work, whose share goes on after it."""
    heard = tuple(_listeners)
    _listeners.clear()
    try:
        yield
    finally:
        _listeners[:] = heard


class Tokens:
    """Tokens that engines write, counted for one step, and what is done in between."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._written, self._seconds, self._doing = 0, 0.0, ""  # seconds of writing; other work is not counted
        self._left, self._last = 0, time.monotonic()

    def describe(self) -> str:
        """``reading 4,210 tokens (45%)``, or ``512 tokens written (3.4/s), at most 3,584 left in this batch``."""
        if self._doing or not self._written:
            return self._doing
        left = f", at most {self._left:,} left in this batch" if self._left else ""
        return f"{self._written:,} tokens written ({self._written / max(self._seconds, 1e-3):.3g}/s){left}"

    def wrote(self, num_tokens: int, num_left: int | None) -> None:
        now = time.monotonic()
        self._seconds, self._last, self._doing = self._seconds + now - self._last, now, ""
        self._written, self._left = self._written + num_tokens, num_left or 0

    def works(self, what: str, share: float) -> None:
        self._last, self._doing = time.monotonic(), f"{what} ({share:.0%})" if share < 1 else ""


class SafeConsole(Console):
    """Text on it may come from files, models and other people: markup is not obeyed, control characters are shown."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See Console. Its own control codes are segments of another kind, and pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_text(segment.text), segment.style)


def print_above_live(console: Console, text: str) -> None:
    """Print a line; on a terminal it stands above the live one."""
    global _last_line
    _last_line = time.monotonic()
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def under_way(console: Console, describe: Callable[[], str]) -> Iterator[None]:
    """Inside the block, print what ``describe`` returns whenever ``EVERY`` seconds pass without a line."""
    global _last_line
    if console.is_terminal:
        yield
        return
    step, stop = (console, describe), Event()

    def watch() -> None:
        while not stop.wait(min(1.0, EVERY / 4)):
            if time.monotonic() - _last_line >= EVERY and _steps:
                where, innermost = _steps[-1]
                print_above_live(where, innermost())

    if not _steps:
        _last_line = time.monotonic()
        Thread(target=watch, name="layercut heartbeat", daemon=True).start()
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)
        stop.set()
