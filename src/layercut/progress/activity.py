"""Activity inside one batch, so that long prompts, long answers and long steps show progress before they end.

    with listening(Tokens()):
        for answers in engine.completions(...): ...

Engines call ``wrote`` after each step, and ``works`` while they read prompts; so does training within a step. Listening
changes no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Is called for all that any engine or training of this process does."""

    def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
        """New tokens, and of the answers in progress the most they may still get, and how many these are; the last
        two are None where unknown."""

    def works(self, what: str, share: float) -> None:
        """A share of ``reading 8,210 tokens``, or of other work that is done at once, is done."""


_listeners: list[Listener] = []


def wrote(num_tokens: int, num_left: int | None = None, num_answers: int | None = None) -> None:
    """Notify all listeners of new tokens; see ``Listener``."""
    for listener in tuple(_listeners):
        listener.wrote(num_tokens, num_left, num_answers)


def works(what: str, share: float) -> None:
    """Notify all listeners of the share of a piece of work that is done; see ``Listener``."""
    for listener in tuple(_listeners):
        listener.works(what, share)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Notify ``listener`` inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def muted() -> Iterator[None]:
    """Notify nobody inside the block: it belongs to a larger piece of work, whose share goes on after it."""
    heard = tuple(_listeners)
    _listeners.clear()
    try:
        yield
    finally:
        _listeners[:] = heard
