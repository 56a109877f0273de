"""What engines do inside one batch, so that long prompts and long answers show progress before they end.

    with listening(Tokens()):
        for answers in engine.completions(...): ...

Engines call ``wrote`` after each step, and ``read`` while they read prompts. Listening changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Is called for all tokens that any engine of this process reads and writes."""

    def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
        """New tokens, and of the answers in progress the most they may still get, and how many these are; the last
        two are None where unknown."""

    def read(self, num_tokens: int, share: float) -> None:
        """A share of the work on this many tokens, which are read together, is done."""


_listeners: list[Listener] = []


def wrote(num_tokens: int, num_left: int | None = None, num_answers: int | None = None) -> None:
    """Notify all listeners of new tokens; see ``Listener``."""
    for listener in tuple(_listeners):
        listener.wrote(num_tokens, num_left, num_answers)


def read(num_tokens: int, share: float) -> None:
    """Notify all listeners of the share of the tokens' way through the model that is done; see ``Listener``."""
    for listener in tuple(_listeners):
        listener.read(num_tokens, share)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Notify ``listener`` inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def unheard() -> Iterator[None]:
    """Notify nobody inside the block: what it reads belongs to a larger reading, whose share goes on after it."""
    heard = tuple(_listeners)
    _listeners.clear()
    try:
        yield
    finally:
        _listeners[:] = heard
