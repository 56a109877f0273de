"""Refine a given plan by a local search: swap removed layers for kept ones while the objective improves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from layercut.errors import InputError, unknown
from layercut.selection import CRITERIA, criterion
from layercut.selection.base import Context, Objective, Selection, check_names, wanted_objective, whole_numbers
from layercut.selection.greedy import as_json, best_of, rank
from layercut.selection.objective import selected_on
from layercut.selection.protect import with_default_protection
from layercut.selection.specs import LayerSpec
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import SELECTION_ITEMS, merge_items, record_items, selection_items

Layers = tuple[int, ...]
_TRIES = 100
"""Draws per wanted offspring before the search assumes that nothing new is near."""
METHODS = ("swap", "evolve")
BUDGET, OFFSPRING, MAX_SWAPS = 200, 16, 3
SETTINGS = ("start", "method", "budget", "offspring", "max_swaps")


def refine(context: Context) -> Selection:
    """Start from a plan and move to better ones by the objective; the result is never worse than the start.

    ``swap`` considers the removed layers one by one, the first removed first (a greedy search chose it before it knew
    the others). It puts the layer back, scores every candidate in its place and moves to the best if that is strictly
    better; of equals the later layer. It ends when no single swap improves the plan.

    ``evolve`` is a (1 + L) evolutionary search. Each generation draws L offspring of the best plan so far and moves to
    the best of them if it is strictly better. Each has random swaps, as many as the smaller of two draws from 1 to
    ``max_swaps``. After Sieberling et al., "EvoPress", arXiv:2410.14649, which starts from random plans and scores
    offspring in steps on growing, freshly drawn texts. Here all are scored on the same items, so a value is measured
    once.

    Both are deterministic: with a journal, the same command after a kill takes the same steps and measures only what is
    missing. Layer 0 is protected, as in ``task_accuracy``, unless the start removes it or ``protect`` is given.

    Settings:
        start: the plan to start from: a CutPlan, a layer list, a plan.json, or a criterion such as ``task_accuracy``,
            which then uses the same objective. No default.
        method: ``swap`` (default) or ``evolve``.
        budget: most plans to score, without the start (default 200). Plans in the journal count too, so that the result
            does not depend on it.
        offspring: of a generation (default 16); evolve only.
        max_swaps: most swaps at once (default 3); evolve only.

    Returns:
        The layers; a swapped layer has the place of the one that it replaced. Details: ``start`` and ``start_value``,
        ``value``, ``uncut``, ``judged`` (number of plans), ``moves`` and why it ``ended``.

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
    if items:  # this plan was selected on the start's items as well
        details[SELECTION_ITEMS] = record_items(items)
    return Selection(end.removed, details=details)


def _start(context: Context, start: object) -> tuple[Layers, Mapping[str, Any]]:
    """The layers that the start removes, and the details of its selection."""
    if start is None:
        raise InputError("refine needs a plan to start from: start=task_accuracy, start=3,8,21 or start=plan.json.")
    name, _, count = str(start).partition(":")
    if isinstance(start, str) and name in CRITERIA:
        if count not in ("", str(context.num_remove)):
            raise InputError(
                f"the start is {start}, but {context.num_remove} layers must be removed; write {name} alone."
            )
        selection = criterion(name)(replace(context, settings={}))
        removed: Layers = selection.removed
        scores: Mapping[str, Any] = selection.details
    else:
        plan = LayerSpec.parse(start).bind(num_layers=context.num_layers)
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
    check_names("refine", settings, SETTINGS)
    method = settings.get("method", METHODS[0])
    if method not in METHODS:
        raise unknown("method of refine", str(method), METHODS)
    counts = whole_numbers("refine", settings, budget=BUDGET, offspring=OFFSPRING, max_swaps=MAX_SWAPS)
    return {"start": settings.get("start"), "method": method, **counts}


class End(NamedTuple):
    """The end of a local search."""

    removed: Layers
    """The best plan; a swapped layer has the place of the one that it replaced."""
    moves: list[dict[str, Any]]
    why: str


class LocalSearch:
    """The scored plans, each scored once, and how many more may be."""

    def __init__(self, context: Context, objective: Objective, budget: int, start: Layers) -> None:
        """Score the start; ``budget`` counts the other plans."""
        self.candidates = context.candidates
        self._context = context
        self._objective = objective
        self._budget = budget
        self._values = {frozenset(start): objective.values([self._plan(start)])[0]}

    @property
    def num_judged(self) -> int:
        return len(self._values) - 1

    @property
    def num_left(self) -> int:
        return self._budget - self.num_judged

    def is_known(self, removed: Layers) -> bool:
        return frozenset(removed) in self._values

    def value_of(self, removed: Layers) -> float:
        return self._values[frozenset(removed)]

    def judge(self, wanted: Sequence[Layers]) -> list[Layers]:
        """Score sets as the budget allows; returns the sets whose value is known."""
        new = list({frozenset(removed): removed for removed in wanted if not self.is_known(removed)}.values())
        new = new[: self.num_left]
        if new:
            for removed, value in zip(new, self._objective.values([self._plan(one) for one in new]), strict=True):
                self._values[frozenset(removed)] = value
            self._context.progress("plans judged", self.num_judged, self._budget)
        return [removed for removed in wanted if self.is_known(removed)]

    def _plan(self, removed: Layers) -> CutPlan:
        return CutPlan(num_layers=self._context.num_layers, removed=removed)


def swap(search: LocalSearch, removed: Layers) -> End:
    """For each removed layer, score every candidate in its place, and move to the best if it is better.

    A round over all places scores at most num_remove * (candidates - num_remove) plans.
    """
    moves: list[dict[str, Any]] = []
    place = num_settled = 0  # the number of places in a row without a better layer
    while num_settled < len(removed):
        others = [layer for layer in search.candidates if layer not in removed]
        wanted = [(*removed[:place], layer, *removed[place + 1 :]) for layer in others]
        judged = search.judge(wanted)
        better = _better(search, judged, removed)
        if better is not None:
            moves.append(_move(search, removed, better))
            removed = better
            num_settled = 0
        num_settled += 1  # this layer is the best here until another place changes
        if len(judged) < len(wanted):
            return End(removed, moves, "the budget is spent")
        place = (place + 1) % len(removed)
    return End(removed, moves, "no swap improves it")


def evolve(search: LocalSearch, removed: Layers, rng: Random, num_offspring: int, max_swaps: int) -> End:
    """Draw offspring of the best plan so far, generation by generation, and move to the best of them if better."""
    moves: list[dict[str, Any]] = []
    generation = 0
    if len(removed) == len(search.candidates):
        return End(removed, moves, "there is no other plan")
    while search.num_left:
        generation += 1
        offspring: dict[frozenset[int], Layers] = {}
        for _ in range(_TRIES * num_offspring):
            if len(offspring) == min(num_offspring, search.num_left):
                break
            child = _mutant(removed, search.candidates, rng, max_swaps)
            if not search.is_known(child):
                offspring.setdefault(frozenset(child), child)
        if not offspring:
            return End(removed, moves, "all plans near it were judged")
        better = _better(search, search.judge(list(offspring.values())), removed)
        if better is not None:
            moves.append({"generation": generation, **_move(search, removed, better)})
            removed = better
    return End(removed, moves, "the budget is spent")


def _mutant(removed: Layers, candidates: Sequence[int], rng: Random, max_swaps: int) -> Layers:
    outside = [layer for layer in candidates if layer not in removed]
    most = min(max_swaps, len(removed), len(outside))
    num_swaps = min(1 + _draw(rng, most), 1 + _draw(rng, most))
    child = list(removed)
    places = list(range(len(removed)))
    for _ in range(num_swaps):
        child[places.pop(_draw(rng, len(places)))] = outside.pop(_draw(rng, len(outside)))
    return tuple(child)


def _draw(rng: Random, num: int) -> int:
    # Python promises never to change the numbers of Random.random(), and of no other method.
    return int(rng.random() * num)


def _better(search: LocalSearch, judged: Sequence[Layers], removed: Layers) -> Layers | None:
    """The best of the plans if it is strictly better than the present one."""
    if not judged:
        return None
    best = judged[best_of([search.value_of(one) for one in judged])]
    return best if rank(search.value_of(best)) > rank(search.value_of(removed)) else None


def _move(search: LocalSearch, before: Layers, after: Layers) -> dict[str, Any]:
    return {
        "put_back": [layer for layer in before if layer not in after],
        "taken": [layer for layer in after if layer not in before],
        "value": as_json(search.value_of(after)),
    }
