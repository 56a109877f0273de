"""Split requests into batches, and split further when memory runs out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from layercut.errors import InputError

logger = logging.getLogger(__name__)
Row = TypeVar("Row")
Result = TypeVar("Result")


class BatchedRequest(Protocol):
    """One request, ready to run."""

    @property
    def id(self) -> str: ...

    @property
    def num_rows(self) -> int:
        """Rows of the model's input that it takes."""


AnyWork = TypeVar("AnyWork", bound=BatchedRequest)


def lay_out(
    work: Iterable[AnyWork], batch_size: int, apart: Callable[[AnyWork], object] = lambda _: None
) -> list[list[AnyWork]]:
    """Pack requests into batches of at most ``batch_size`` rows, in the given order.

    A request is never split; one with more rows than a batch takes has a batch of its own, and a new one begins where
    ``apart`` gives another value.

    Raises:
        InputError: two requests with one id.
    """
    batches: list[list[AnyWork]] = []
    room = 0
    for item in work:
        if not batches or item.num_rows > room or apart(item) != apart(batches[-1][-1]):
            batches.append([])
            room = batch_size
        batches[-1].append(item)
        room -= item.num_rows
    counts = Counter(item.id for batch in batches for item in batch)
    doubled = next((name for name, count in counts.items() if count > 1), None)
    if doubled is not None:
        raise InputError(f"the request {doubled!r} is there more than once; give every request its own id.")
    return batches


class Backoff:
    """Runs a batch in parts, and halves the parts for good when memory runs out."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, rows: Sequence[Row], work: Callable[[Sequence[Row]], Result]) -> Iterator[Result]:
        """Results of ``work`` on the parts of ``rows``, in order.

        Raises:
            RuntimeError: torch's own, when a single row does not fit in memory, or for anything else.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            try:
                result = work(part)
            except RuntimeError as error:
                if len(part) == 1 or not should_reduce_batch_size(error):
                    raise
            else:
                yield result
                start += len(part)
                continue
            # After the handler, because its traceback holds the tensors that filled the memory.
            self.size = len(part) // 2
            clear_device_cache(garbage_collection=True)
            logger.warning("out of memory with %d rows at once; going on with %d", len(part), self.size)
