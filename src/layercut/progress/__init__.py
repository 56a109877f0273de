"""Progress of long work: bars, estimates of the time left, and lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(what, pieces done, pieces in all)."""


OnProgress = Callable[[int, int], None]
"""(pieces done, pieces in all)."""
Say = Callable[[str], None]
"""Prints a line for people."""


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""
