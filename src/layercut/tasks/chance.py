"""The score of guessing on a task, from all items of a split, independent of a limit."""

from __future__ import annotations

from collections.abc import Mapping

from layercut.tasks.base import Readout, Split, Task, budget_of

_KEPT_IN = "_chance_of"


def chance_of(task: Task, split: Split, readout: Readout) -> Mapping[str, float]:
    """Score of guessing per metric, as ``Task.chance`` gives it for the whole split.

    A share of the most common right answer among a few items is too high: of 4 GSM8K items it is at least 25 %, of all
    1,319 it is 3 %. Of a budget (``chain@64``), that of ``chain``. A task whose chance is slow to compute names the
    number of first items that it takes, whatever the limit, in ``chance_items``.

    Raises:
        InputError: a row of the split that cannot be used.
    """
    readout = readout if budget_of(readout) is None else "chain"
    # Kept in the task, as a cached_property would be: every cut of a study asks again.
    kept: dict[tuple[Split, Readout], Mapping[str, float]]
    kept = getattr(task, "__dict__", {}).setdefault(_KEPT_IN, {})
    if (split, readout) not in kept:
        kept[split, readout] = task.chance(task.samples(split, getattr(task, "chance_items", None)), readout)
    return kept[split, readout]
