"""Which items of a task a model is reported on: the full test set, or the rest where some of it chose layers or healed.

A benchmark with a test set alone gives its selection items from that test set. A model that used none of them is
reported on all items, so that its score can be compared with published ones; any other model on the report items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from layercut.tasks.base import Split, Task

ITEMS, FULL = "items", "full test set"
"""The entry in a run's settings for a task whose whole test set is asked; they say nothing of one where it is not."""


def reported_split(task: Task, used: Collection[str] | None) -> Split:
    """``full`` where selection items are part of the test set and none of them was used; else ``report``.

    Args:
        used: ids of the items that the plan and the healing behind a model used, of whatever task; None where that is
            not known.
    """
    if not task.shares_test_set or used is None:
        return "report"
    return "full" if task.selection_part.isdisjoint(used) else "report"


def decided(used: Collection[str] | None, begun: Mapping[str, Any] | None) -> Callable[[Task], Split]:
    """From a task to its split: as a run was begun, or as ``reported_split`` says.

    Args:
        used: as ``reported_split`` takes it.
        begun: settings of the run that the folder holds already; a run keeps its items. None for a new one.
    """
    known: dict[str, Split] = {
        one["task"]: "full" if one.get(ITEMS) == FULL else "report"
        for one in (begun or {}).get("tasks", ())
        if isinstance(one, dict) and "task" in one
    }
    return lambda task: known.get(task.name) or reported_split(task, used)


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
