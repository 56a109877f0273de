"""The items that a plan was selected on and a healing used, so that no score is reported on them by accident."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.evidence.splits import items_hash
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.surgery.plan import CutPlan

SELECTION_ITEMS = "selection_items"
"""Name in a selection's details, and so in a plan's ``scores``; and in the entry of a healing."""
HELD_OUT = "held_out"  # name, in a plan's ``scores``, of what the plan scored on items that its search never saw


def record_items(items: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """A plan's entry on its selection items: per task ``num_items``, ``hash`` and the sorted ``ids``.

    The ids stand in the plan itself, however many: a checkpoint takes its plan along but not the run it comes from, and
    a hash alone could say that two sets differ, not that they are disjoint.
    """
    unique = {task: sorted(set(ids)) for task, ids in items.items()}
    return {task: {"num_items": len(ids), "hash": items_hash(ids), "ids": ids} for task, ids in unique.items()}


def selection_items(scores: Mapping[str, Any], where: str = "the plan") -> dict[str, frozenset[str]]:
    """Ids per task from a plan's ``scores`` or a selection's details; empty where nothing was selected on a task.

    Raises:
        InputError: ids and hash do not belong together.
    """
    return _ids(scores.get(SELECTION_ITEMS, {}), where)


def held_out_items(scores: Mapping[str, Any], where: str = "the plan") -> dict[str, frozenset[str]]:
    """Ids per task of the items that a plan's held-out scores were measured on.

    Raises:
        InputError: ids and hash do not belong together.
    """
    return _ids(scores.get(HELD_OUT, {}).get("items", {}), where)


def used_items(plans: Iterable[CutPlan], healings: Iterable[Mapping[str, Any]] = ()) -> frozenset[str] | None:
    """Ids of all items, of whatever task, that chose a model's layers, judged the choice, or healed the model.

    One problem has one id in tasks that share it, such as ``humaneval`` and ``humaneval_plus``.

    Args:
        plans: all by which the model was cut.
        healings: all entries of its plan.json and earlier_plans.json.

    Returns:
        None where it is not known, because an older layercut healed the model.
    Raises:
        InputError: ids and hash of a record do not belong together.
    """
    parts = [find(plan.scores) for plan in plans for find in (selection_items, held_out_items)]
    for healing in healings:
        if SELECTION_ITEMS not in healing:
            return None
        parts.append(selection_items(healing, "a healing"))
    return frozenset(chain.from_iterable(ids for part in parts for ids in part.values()))


def _ids(items: Mapping[str, Any], where: str) -> dict[str, frozenset[str]]:
    found = {}
    for task, recorded in items.items():
        try:
            ids = frozenset(recorded["ids"])
            is_same = items_hash(ids) == recorded["hash"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{where} does not record on which items of {task} it was selected; select again."
            ) from error
        if not is_same:
            raise InputError(
                f"{where} was changed: its selection items of {task} do not match their hash; select again."
            )
        found[task] = ids
    return found


def merge_items(*parts: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Everything that was selected on, when one search goes on from the outcome of another.

    >>> {task: sorted(ids) for task, ids in merge_items({"copy": {"a"}}, {"copy": {"b"}, "gsm8k": {"c"}}).items()}
    {'copy': ['a', 'b'], 'gsm8k': ['c']}
    """
    tasks = dict.fromkeys(task for part in parts for task in part)
    return {task: frozenset().union(*(part.get(task, ()) for part in parts)) for task in tasks}


def check_report_items(plan: CutPlan, task: str, ids: Iterable[str], *, allow: bool = False) -> int:
    """Refuse to report on items that the plan was selected on, or judged on when it was selected, in whatever task.

    Held-out items decided nothing by themselves; but choosing among several plans by their held-out scores and taking
    the best has chosen by them.

    Args:
        allow: report all the same; the caller marks every number if any item was a selection item.

    Returns:
        How many of the items were selection or held-out items: more than 0 only under ``allow``.

    Raises:
        InputError: at least one item was such an item, or the plan's own list was changed.
    """
    wanted = set(ids)
    shared = wanted.intersection(chain(*selection_items(plan.scores).values()))
    judged = wanted.intersection(chain(*held_out_items(plan.scores).values()))
    if shared and not allow:
        raise InputError(
            f"the plan was selected on {len(shared)} of these {counted(len(wanted), 'item')} of {task}, "
            "so its scores there are "
            "too good by construction. Use the report split, or `allow_selection_items`, which marks every number."
        )
    if judged and not allow:
        raise InputError(
            f"{len(judged)} of these {counted(len(wanted), 'item')} of {task} are held-out items that "
            "the plan was judged on when "
            "it was selected. Use the report split, or `allow_selection_items`, which marks every number."
        )
    return len(shared | judged)
