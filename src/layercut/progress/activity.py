"""Count tokens while engines write them, so that one long answer shows progress before it ends.

    with listening(lambda written, left: print(written, left)):
        for answers in engine.completions(...): ...

Engines call ``wrote`` after each step. Listening changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int | None], None]
"""(tokens written since the last call, at most this many more in the answers in progress or None where unknown)."""
_listeners: list[Listener] = []


def wrote(num_tokens: int, num_left: int | None = None) -> None:
    """Notify all listeners of new tokens.

    Args:
        num_tokens: written since the last call.
        num_left: that the answers under way may still get; None where the engine does not know.
    """
    for listener in tuple(_listeners):
        listener(num_tokens, num_left)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for all that is written inside the block, by any engine of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
