"""The message for a task that has fewer items than requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from layercut.tasks.base import Split, Task


class Limited(Protocol):
    """A task with the number of its items that is asked for."""

    @property
    def task(self) -> Task: ...

    @property
    def limit(self) -> int | None: ...


class Reported(Limited, Protocol):
    """The same of items that are reported."""

    @property
    def split(self) -> Split: ...


def shortfall(task: Task, split: Split, limit: int | None) -> str:
    """``only 88 of the 100 requested selection items ...`` with the reason; empty where all come, or all are asked."""
    if limit is None or (there := len(task.samples(split, limit))) >= limit:
        return ""
    if split == "full":
        return f"{task.name}: only {there} of the {limit} requested items; its test set has no more"
    splits = task.settings().get("splits")
    source = f"its data ({splits})" if splits else "the task"
    return f"{task.name}: only {there} of the {limit} requested {split} items; {source} has no more"


def tell_shortfalls(parts: Iterable[Limited], split: Split, say: Callable[[str], None]) -> None:
    """Say it of each task that has fewer, once."""
    _tell((shortfall(part.task, split, part.limit) for part in parts), say)


def tell_reported(cells: Iterable[Reported], say: Callable[[str], None]) -> None:
    """The same of items that are reported."""
    _tell((shortfall(cell.task, cell.split, cell.limit) for cell in cells), say)


def _tell(lines: Iterable[str], say: Callable[[str], None]) -> None:
    for line in dict.fromkeys(lines):
        if line:
            say(line)
