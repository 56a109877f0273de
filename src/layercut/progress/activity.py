"""Activity inside one batch, so that long prompts, long answers and long steps show progress before they end.

Engines call ``report_tokens`` after each step, and ``report_share`` while they read prompts; so does training
within a step. Listening changes no result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_listeners: list[Tokens] = []


def report_tokens(num_tokens: int, num_left: int | None = None, num_answers: int | None = None) -> None:
    """Report new tokens, and of the answers in progress the most they may still get, and how many these are; None
    where unknown."""
    for listener in tuple(_listeners):
        listener.wrote(num_tokens, num_left, num_answers)


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
        self._left: int | None = None
        self._most, self._last = 0, time.monotonic()  # the most answers that were in progress at once

    def describe(self) -> str:
        """``reading 4,210 tokens (45%)``, or ``512 tokens written (3.4/s), at most 3,584 left in this batch``."""
        if self._doing or not self._written:
            return self._doing
        left = f", at most {self._left:,} left in this batch" if self._left else ""
        return f"{self._written:,} tokens written ({self._written / max(self._seconds, 1e-3):.3g}/s){left}"

    def seconds_left(self, num_answers: int) -> float | None:
        """The most seconds that N answers still take at the speed so far, where all of them were begun together."""
        if not self._written or not num_answers or self._left is None or self._most != num_answers:
            return None
        return self._left * self._seconds / self._written

    def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
        now = time.monotonic()
        self._seconds, self._last, self._doing = self._seconds + now - self._last, now, ""
        self._written, self._left, self._most = self._written + num_tokens, num_left, max(self._most, num_answers or 0)

    def works(self, what: str, share: float) -> None:
        self._last, self._doing = time.monotonic(), f"{what} ({share:.0%})" if share < 1 else ""
