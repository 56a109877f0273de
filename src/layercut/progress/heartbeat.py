"""Progress where stderr is not a terminal: a line at least every half minute, during any work.

    with under_way(console, lambda: "Answering gsm8k: 3 of 8 items"):
        ...

Blocks nest: the innermost one is described. Terminals have a live line instead.
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
_steps: list[tuple[Console, Callable[[], str]]] = []
_last_line = 0.0


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
