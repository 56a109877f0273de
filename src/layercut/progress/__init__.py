"""Progress of long work: a live line in a terminal, lines elsewhere, and the time left where it was measured."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what, pieces done, pieces in all)
OnProgress = Callable[[int, int], None]  # (pieces done, pieces in all)
Say = Callable[[str], None]  # prints a line for people


def show_nothing(what: str, done: int, total: int) -> None:
    """No progress shown."""
