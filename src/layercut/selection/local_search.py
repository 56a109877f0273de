"""Two local searches from a plan to better plans of the same size; each plan is scored once."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from layercut.selection.base import Context, Objective
from layercut.selection.greedy import as_json, best_of, rank
from layercut.surgery.plan import CutPlan

Layers = tuple[int, ...]
_TRIES = 100
"""Draws per wanted offspring until it is taken that nothing new is near."""


class End(NamedTuple):
    """Where a local search ended."""

    removed: Layers
    """The best plan found; who took a layer's place stands in its place."""
    moves: list[dict[str, Any]]
    """Every step on the way: layers ``put_back`` and ``taken``, and the ``value`` after it."""
    why: str
    """Why it ended."""


class LocalSearch:
    """The plans that were judged, and how many still may be."""

    def __init__(self, context: Context, objective: Objective, budget: int, start: Layers) -> None:
        """Judge the start; ``budget`` counts plans beside it."""
        self.candidates = context.candidates
        self._context = context
        self._objective = objective
        self._budget = budget
        self._values = {frozenset(start): objective.values([self._plan(start)])[0]}

    @property
    def num_judged(self) -> int:
        """Plans beside the start."""
        return len(self._values) - 1

    @property
    def num_left(self) -> int:
        """Plans that may still be judged."""
        return self._budget - self.num_judged

    def is_known(self, removed: Layers) -> bool:
        """Whether this set was judged."""
        return frozenset(removed) in self._values

    def value_of(self, removed: Layers) -> float:
        """The value of a set that was judged."""
        return self._values[frozenset(removed)]

    def judge(self, wanted: Sequence[Layers]) -> list[Layers]:
        """The sets whose value is known in the end: all of them, or fewer if the budget runs out."""
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

    A full turn judges at most num_remove * (candidates - num_remove) plans.
    """
    moves: list[dict[str, Any]] = []
    place = num_settled = 0  # as many places in a row have no better layer
    while num_settled < len(removed):
        others = [layer for layer in search.candidates if layer not in removed]
        wanted = [(*removed[:place], layer, *removed[place + 1 :]) for layer in others]
        judged = search.judge(wanted)
        better = _better(search, judged, removed)
        if better is not None:
            moves.append(_move(search, removed, better))
            removed = better
            num_settled = 0
        num_settled += 1  # the layer there now is the best there, as long as the other places stay
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
    # Random.random() is the one method whose numbers Python promises never to change.
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
