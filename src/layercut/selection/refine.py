"""Refine a given plan: swap removed layers for kept ones while the objective improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from layercut.errors import InputError, unknown
from layercut.selection import CRITERIA, criterion
from layercut.selection.base import Context, Selection, wanted_objective
from layercut.selection.greedy import as_json
from layercut.selection.local_search import Layers, LocalSearch, evolve, swap
from layercut.selection.objective import selected_on
from layercut.selection.protect import with_default_protection
from layercut.selection.specs import plan_from_spec
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import SELECTION_ITEMS, merge_items, record_items, selection_items

METHODS = ("swap", "evolve")
BUDGET, OFFSPRING, MAX_SWAPS = 200, 16, 3
SETTINGS = ("start", "method", "budget", "offspring", "max_swaps")


def refine(context: Context) -> Selection:
    """Start from a plan and move to better ones by the objective; the outcome is never worse than the start.

    ``swap`` takes the removed layers one by one, the first removed first (a greedy search chose it when it knew least
    of what else would go). It puts the layer back, judges every candidate in its place and moves to the best if that is
    strictly better; of equals the later layer. It ends when no single swap improves the plan.

    ``evolve`` is a (1 + L) evolutionary search. Each generation draws L offspring of the best plan so far, each by as
    many swaps of random layers as the smaller of two draws from 1 to ``max_swaps``, and moves to the best of them if it
    is strictly better. After Sieberling et al., "EvoPress", arXiv:2410.14649, which starts from random plans and judges
    offspring in steps on growing, freshly drawn texts; here all are judged on the same items, so that a value is
    measured once.

    Both are deterministic: with a journal, the same command after a kill goes the same way and measures only what is
    missing.

    Layer 0 stays, as in ``task_accuracy``, unless the start removes it or it is said which layers are protected.

    Settings:
        start: the plan to start from: a CutPlan, a layer list, a plan.json, or a criterion such as ``task_accuracy``,
            which then uses the same objective. No default.
        method: ``swap`` (default) or ``evolve``.
        budget: how many plans may be judged beside the start (default 200). Plans that the journal knows count as well,
            so that the outcome does not depend on it.
        offspring: of a generation (default 16); evolve only.
        max_swaps: most swaps at once (default 3); evolve only.

    Returns:
        The layers; who took a layer's place stands in its place. Details: ``start`` and ``start_value``, ``value``,
        ``uncut``, ``judged`` (number of plans), ``moves`` and why it ``ended``.

    Raises:
        InputError: no objective, no start, one that removes another number of layers or protected ones, a setting that
            does not exist or has no such value.
    """
    objective = wanted_objective(context, "refine")
    settings = _checked(context.settings)
    start, scores = _start(context, settings["start"])
    context = with_default_protection(context, "refine", start)
    kept = sorted(set(start) & context.protected)
    if kept:
        raise InputError(f"the start removes layer {kept[0]}, which is protected; protect others, or start elsewhere.")
    (uncut,) = objective.values([CutPlan(num_layers=context.num_layers)])
    search = LocalSearch(context, objective, settings["budget"], start)
    start_value = search.value_of(start)
    if settings["method"] == "swap":
        end = swap(search, start)
    else:
        end = evolve(search, start, Random(context.seed), settings["offspring"], settings["max_swaps"])
    details = {
        "method": settings["method"],
        "budget": settings["budget"],
        "protect": sorted(context.protected),
        "start": list(start),
        "start_value": as_json(start_value),
        "uncut": as_json(uncut),
        "value": as_json(search.value_of(end.removed)),
        "judged": search.num_judged,
        "moves": end.moves,
        "ended": end.why,
        **selected_on(objective, CutPlan(num_layers=context.num_layers, removed=end.removed)),
    }
    items = merge_items(selection_items(scores, "the start"), selection_items(details))
    if items:  # what the start was selected on, this plan was selected on as well
        details[SELECTION_ITEMS] = record_items(items)
    return Selection(end.removed, details=details)


def _start(context: Context, start: object) -> tuple[Layers, Mapping[str, Any]]:
    """The layers that the start removes, and what its selection measured."""
    if start is None:
        raise InputError("refine needs a plan to start from: start=task_accuracy, start=3,8,21 or start=plan.json.")
    removed: Layers
    scores: Mapping[str, Any]
    name, _, count = str(start).partition(":")
    if isinstance(start, str) and name in CRITERIA:
        if count not in ("", str(context.num_remove)):
            raise InputError(
                f"the start is {start}, but {context.num_remove} layers must be removed; write {name} alone."
            )
        selection = criterion(name)(replace(context, settings={}))
        removed, scores = selection.removed, selection.details
    else:
        plan = start if isinstance(start, CutPlan) else plan_from_spec(str(start), num_layers=context.num_layers)
        if plan.num_layers != context.num_layers:
            raise InputError(
                f"the start is a plan for {plan.num_layers} decoder layers, and this model has {context.num_layers}."
            )
        removed, scores = plan.removed, plan.scores
    if len(removed) != context.num_remove:
        raise InputError(
            f"the start removes {len(removed)} layers, but {context.num_remove} must be removed. Refining keeps the "
            f"number: start from a plan that removes {context.num_remove}."
        )
    return removed, scores


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise unknown("setting of refine", name, SETTINGS)
    method = settings.get("method", METHODS[0])
    if method not in METHODS:
        raise unknown("method of refine", str(method), METHODS)
    return {
        "start": settings.get("start"),
        "method": method,
        "budget": _count(settings, "budget", BUDGET),
        "offspring": _count(settings, "offspring", OFFSPRING),
        "max_swaps": _count(settings, "max_swaps", MAX_SWAPS),
    }


def _count(settings: Mapping[str, Any], name: str, default: int) -> int:
    value = settings.get(name, default)
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"{name} of refine is {value!r}; write a whole number from 1.")
    return count
