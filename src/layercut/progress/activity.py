"""Count tokens while engines write them, so that one long answer shows progress before it ends.

    with listening(lambda written, left, answers: print(written, left)):
        for answers in engine.completions(...): ...

Engines call ``wrote`` after each step. Listening changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int | None, int | None], None]
"""(tokens written since the last call, most tokens left in the answers in progress, number of these answers); the last
two are None where unknown."""
_listeners: list[Listener] = []


def wrote(num_tokens: int, num_left: int | None = None, num_answers: int | None = None) -> None:
    """Notify all listeners of new tokens, and of the answers in progress: the most they may still get, and how many."""
    for listener in tuple(_listeners):
        listener(num_tokens, num_left, num_answers)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for all tokens inside the block, from any engine of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
