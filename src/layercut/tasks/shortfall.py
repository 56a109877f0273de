"""The message for a task that has fewer items than requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from layercut.tasks.base import Split, Task


class Limited(Protocol):
    """A task with the number of its items that is asked for."""

    @property
    def task(self) -> Task:
        """Where the items come from."""
        ...

    @property
    def limit(self) -> int | None:
        """How many; None for all."""
        ...


def shortfall(task: Task, split: Split, limit: int | None) -> str:
    """``only 88 of the 100 selection items ...`` with the reason; empty where all come, or none were numbered."""
    if limit is None or (there := len(task.samples(split, limit))) >= limit:
        return ""
    splits = task.settings().get("splits")
    source = f"its data ({splits})" if splits else "the task"
    return f"{task.name}: only {there} of the {limit} requested {split} items; {source} has no more"


def tell_shortfalls(parts: Iterable[Limited], split: Split, say: Callable[[str], None]) -> None:
    """Say it of each task that has fewer, once."""
    for line in dict.fromkeys(shortfall(part.task, split, part.limit) for part in parts):
        if line:
            say(line)
