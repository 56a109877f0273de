"""The items that a plan was selected on and a healing used, and the items that may be reported after that.

A benchmark with a test set alone gives its selection items from that test set. A model that used none of them is
reported on all items, so that its score can be compared with published ones; any other model on the report items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.evidence.splits import items_hash
from layercut.tasks.base import Split, Task
from layercut.text import count_of

if TYPE_CHECKING:
    from layercut.surgery.plan import CutPlan

SELECTION_ITEMS = "selection_items"
"""Name in a selection's details, and so in a plan's ``scores``; and in the entry of a healing."""
HELD_OUT = "held_out"  # name, in a plan's ``scores``, of what the plan scored on items that its search never saw
ITEMS, FULL = "items", "full test set"
"""The entry in a run's settings for a task whose whole test set is asked; they say nothing of one where it is not."""


def record_items(items: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """A plan's entry on its selection items: per task ``num_items``, ``hash`` and the sorted ``ids``.

    All ids are in the plan itself, because a checkpoint takes its plan along but not the run that it comes from.
    """
    unique = {task: sorted(set(ids)) for task, ids in items.items()}
    return {task: {"num_items": len(ids), "hash": items_hash(ids), "ids": ids} for task, ids in unique.items()}


def selection_items(scores: Mapping[str, Any], where: str = "the plan") -> dict[str, frozenset[str]]:
    """Ids per task from a plan's ``scores`` or a selection's details. Raises InputError: their hash is another."""
    return _checked_ids(scores.get(SELECTION_ITEMS, {}), where)


def held_out_items(scores: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The same of the items that a plan's held-out scores were measured on."""
    return _checked_ids(scores.get(HELD_OUT, {}).get("items", {}), "the plan")


def _checked_ids(items: Mapping[str, Any], where: str) -> dict[str, frozenset[str]]:
    ids_of = {}
    for task, recorded in items.items():
        try:
            ids_of[task] = frozenset(recorded["ids"])
            is_same = items_hash(ids_of[task]) == recorded["hash"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{where} does not record on which items of {task} it was selected; select again."
            ) from error
        if not is_same:
            raise InputError(
                f"{where} was changed: its selection items of {task} do not match their hash; select again."
            )
    return ids_of


def merge_items(*parts: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Everything that was selected on, when one search goes on from the outcome of another.

    >>> {task: sorted(ids) for task, ids in merge_items({"copy": {"a"}}, {"copy": {"b"}, "gsm8k": {"c"}}).items()}
    {'copy': ['a', 'b'], 'gsm8k': ['c']}
    """
    tasks = dict.fromkeys(chain(*parts))
    return {task: frozenset().union(*(part.get(task, ()) for part in parts)) for task in tasks}


def used_items(plans: Iterable[CutPlan], healings: Iterable[Mapping[str, Any]] = ()) -> frozenset[str] | None:
    """Ids of all items, of whatever task, that chose a model's layers, judged the choice, or healed the model.

    One problem has one id in tasks that share it, such as ``humaneval`` and ``humaneval_plus``.

    Args:
        plans: all by which the model was cut.
        healings: all entries of its plan.json and earlier_plans.json.

    Returns:
        None where it is not known, because an older layercut healed the model.
    """
    parts = [read_ids(plan.scores) for plan in plans for read_ids in (selection_items, held_out_items)]
    for healing in healings:
        if SELECTION_ITEMS not in healing:
            return None
        parts.append(selection_items(healing, "a healing"))
    return frozenset(chain.from_iterable(ids for part in parts for ids in part.values()))


def check_report_items(plans: Iterable[CutPlan], task: str, ids: Collection[str]) -> None:
    """Refuse to report on items that a plan was selected on, or judged on when it was selected, in whatever task.

    Held-out items decided nothing by themselves; but taking the best of several plans by their held-out scores has
    chosen by them.

    Raises InputError: at least one item was such an item, or a plan's own list was changed.
    """
    items, instead = f"of these {count_of(len(set(ids)), 'item')} of {task}", "Use the report split."
    for plan in plans:
        selected, judged = (
            set(ids).intersection(chain(*read_ids(plan.scores).values()))
            for read_ids in (selection_items, held_out_items)
        )
        if selected:
            raise InputError(
                f"the plan was selected on {len(selected)} {items}, so its scores there are too good by construction. "
                f"{instead}"
            )
        if judged:
            raise InputError(
                f"{len(judged)} {items} are held-out items that the plan was judged on when it was selected. {instead}"
            )


def reported_split(task: Task, used: Collection[str] | None) -> Split:
    """``full`` where selection items are part of the test set and none of them was used; else ``report``.

    Args:
        used: ids of the items that the plan and the healing behind a model used, of whatever task; None where that is
            not known.
    """
    if not task.shares_test_set or used is None:
        return "report"
    return "full" if task.selection_part.isdisjoint(used) else "report"


def decide_split(used: Collection[str] | None, begun: Mapping[str, Any] | None) -> Callable[[Task], Split]:
    """From a task to its split: as a run was begun, or as ``reported_split`` says.

    ``begun`` holds the settings of the run that the folder holds already; a run keeps its items.
    """
    known: dict[str, Split] = {
        settings["task"]: "full" if settings.get(ITEMS) == FULL else "report"
        for settings in (begun or {}).get("tasks", ())
        if isinstance(settings, dict) and "task" in settings
    }
    return lambda task: known.get(task.name) or reported_split(task, used)


def describe_shortfall(task: Task, split: Split, limit: int | None) -> str:
    """``only 88 of the 100 requested selection items ...`` with the reason; empty where all come, or all are asked."""
    if limit is None or (there := len(task.samples(split, limit))) >= limit:
        return ""
    if split == "full":
        return f"{task.name}: only {there} of the {limit} requested items; its test set has no more"
    splits = task.settings().get("splits")
    source = f"its data ({splits})" if splits else "the task"
    return f"{task.name}: only {there} of the {limit} requested {split} items; {source} has no more"


def tell_shortfalls(wanted: Iterable[tuple[Task, Split, int | None]], say: Callable[[str], None]) -> None:
    """Say once of each task that it has fewer items than its limit asks for."""
    for line in dict.fromkeys(describe_shortfall(task, split, limit) for task, split, limit in wanted):
        if line:
            say(line)
