from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.selection import criterion
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.refine import refine
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import record_items, selection_items
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, random_table

NUM_LAYERS = 9


def context(objective: Any, start: Any = "3,5,7", num_remove: int = 3, seed: int = 0, **settings: Any) -> Context:
    return Context(
        num_layers=NUM_LAYERS,
        num_remove=num_remove,
        objective=objective,
        seed=seed,
        protect=frozenset(),
        settings={"start": start, **settings},
    )


def swaps_of(removed: tuple[int, ...]) -> list[frozenset[int]]:
    return [
        frozenset(removed) - {out} | {layer} for out in removed for layer in range(NUM_LAYERS) if layer not in removed
    ]


@pytest.mark.parametrize("levels", [3, 1_000_000])
@pytest.mark.parametrize("method", ["swap", "evolve"])
@pytest.mark.parametrize("seed", range(6))
def test_never_ends_worse_and_moves_only_to_the_better(seed: int, method: str, levels: int) -> None:
    value = random_table(seed, levels)
    selection = refine(context(TableObjective(value), method=method, seed=seed))
    seen = [value(frozenset({3, 5, 7})), *(move["value"] for move in selection.details["moves"])]
    assert seen == sorted(set(seen))
    assert value(frozenset(selection.removed)) == seen[-1] == selection.details["value"]
    assert len(set(selection.removed)) == 3


@pytest.mark.parametrize("seed", range(12))
def test_swap_ends_where_no_single_swap_is_better(seed: int) -> None:
    value = random_table(seed)
    selection = refine(context(TableObjective(value), budget=1000))
    assert selection.details["ended"] == "no swap improves it"
    assert value(frozenset(selection.removed)) >= max(value(plan) for plan in swaps_of(selection.removed))


@pytest.mark.parametrize("seed", range(6))
def test_evolve_finds_the_best_of_a_small_landscape(seed: int) -> None:
    value = random_table(seed)
    selection = refine(context(TableObjective(value), method="evolve", budget=comb(NUM_LAYERS, 3) - 1, seed=seed))
    best = max(combinations(range(NUM_LAYERS), 3), key=lambda plan: value(frozenset(plan)))
    assert sorted(selection.removed) == list(best)


def test_swap_climbs_a_smooth_landscape_to_its_top() -> None:
    worth = [5, 1, 8, 2, 9, 3, 7, 0, 4]
    selection = refine(context(TableObjective(lambda removed: float(sum(worth[layer] for layer in removed)))))
    assert set(selection.removed) == {2, 4, 6}
    assert selection.details["moves"] == [
        {"put_back": [3], "taken": [4], "value": 12.0},
        {"put_back": [5], "taken": [2], "value": 17.0},
        {"put_back": [7], "taken": [6], "value": 24.0},
    ]


def test_of_equal_swaps_the_later_layer_is_taken() -> None:
    worth = {8: 1.0, 2: 1.0}
    objective = TableObjective(lambda removed: sum(worth.get(layer, 0.0) for layer in removed))
    assert refine(context(objective, start="3", num_remove=1)).removed == (8,)


@pytest.mark.parametrize("method", ["swap", "evolve"])
@pytest.mark.parametrize("budget", [1, 7, 18, 40])
def test_no_more_plans_are_judged_than_the_budget_says(method: str, budget: int) -> None:
    objective = TableObjective(random_table(4))
    details = refine(context(objective, method=method, budget=budget)).details
    assert objective.asked[:2] == [frozenset(), frozenset({3, 5, 7})]
    assert len(objective.asked) - 2 == len(set(objective.asked[2:])) == details["judged"] <= budget
    if details["ended"] == "the budget is spent":
        assert details["judged"] == budget


def test_evolve_stops_when_all_plans_were_judged() -> None:
    objective = TableObjective(random_table(0))
    details = refine(context(objective, start="3,5", num_remove=2, method="evolve", budget=10_000)).details
    assert details["judged"] == comb(NUM_LAYERS, 2) - 1 and "all plans" in details["ended"]


@pytest.mark.parametrize("method", ["swap", "evolve"])
def test_nothing_to_swap_ends_at_once(method: str) -> None:
    objective = TableObjective(random_table(0))
    protect = frozenset(range(NUM_LAYERS)) - {3, 5, 7}
    wish = context(objective, method=method)
    details = refine(Context(**{**vars(wish), "protect": protect})).details
    assert (details["judged"], details["moves"]) == (0, [])


def test_evolve_depends_on_the_seed_alone() -> None:
    def asked(seed: int) -> list[frozenset[int]]:
        objective = TableObjective(random_table(0))
        refine(context(objective, method="evolve", budget=30, seed=seed))
        return objective.asked

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_max_swaps_bounds_how_far_an_offspring_is() -> None:
    def farthest(max_swaps: int) -> int:
        objective = TableObjective(lambda removed: float(removed == {3, 5, 7}))  # the start stays the best
        refine(context(objective, method="evolve", max_swaps=max_swaps, budget=60))
        return max(len(plan - {3, 5, 7}) for plan in objective.asked)

    assert (farthest(1), farthest(2), farthest(9)) == (1, 2, 3)


def test_protected_layers_are_never_taken() -> None:
    for method in ("swap", "evolve"):
        objective = TableObjective(lambda removed: -float(sum(removed)))  # the first layers would go
        wish = context(objective, method=method, budget=150)
        selection = refine(Context(**{**vars(wish), "protect": frozenset({0, 2})}))
        assert set(selection.removed) == {1, 3, 4}
        assert all(not plan & {0, 2} for plan in objective.asked)


@pytest.mark.parametrize(("start", "settings", "expected"), [("3,5", {}, {1, 2}), ("0,5", {}, {0, 1})])
def test_layer_0_stays_unless_the_start_removes_it(start: str, settings: dict[str, str], expected: set[int]) -> None:
    objective = TableObjective(lambda removed: -float(sum(removed)))
    wish = Context(num_layers=NUM_LAYERS, num_remove=2, objective=objective, settings={"start": start, **settings})
    assert set(refine(wish).removed) == expected


@pytest.mark.parametrize(("protect", "first"), [(None, 1), (frozenset(), 0)])
def test_a_criterion_as_start_protects_what_refine_does(protect: frozenset[int] | None, first: int) -> None:
    objective = TableObjective(lambda removed: -float(sum(removed)))  # the first layers go
    selection = refine(replace(context(objective, start="task_accuracy", num_remove=2), protect=protect))
    assert selection.details["start"] == [first, first + 1]
    assert selection.details["protect"] == ([0] if protect is None else [])


@pytest.mark.parametrize("start", ["reverse", "reverse:3", "6-8", CutPlan(num_layers=NUM_LAYERS, removed=(8, 7, 6))])
def test_forms_of_the_start(start: Any) -> None:
    selection = refine(context(TableObjective(lambda removed: float(removed == {6, 7, 8})), start=start))
    assert selection.details["moves"] == []
    assert set(selection.removed) == {6, 7, 8}


def test_start_from_a_file(tmp_path: Path) -> None:
    CutPlan(num_layers=NUM_LAYERS, removed=(8, 6)).save(tmp_path / "plan.json")
    selection = refine(context(TableObjective(random_table(0)), start=str(tmp_path / "plan.json"), num_remove=2))
    assert selection.details["start"] == [8, 6]


def tasks_objective(engine: NeedyEngine, *names: str) -> TaskObjective:
    tasks = [
        ObjectiveTask(task=NeedyTask(name=name, num_layers=NUM_LAYERS), readout="short", limit=None) for name in names
    ]
    return TaskObjective(engine, tasks)


def test_a_criterion_as_start_uses_the_same_objective_and_its_measurements() -> None:
    engine = NeedyEngine(num_layers=NUM_LAYERS)
    wish = context(tasks_objective(engine, "needy"), start="task_accuracy", num_remove=2)
    greedy = criterion("task_accuracy")(replace(wish, settings={}))
    selection = refine(wish)
    assert selection.details["start"] == list(greedy.removed)
    assert selection.details["value"] >= greedy.details["value"]
    assert len(engine.asked) == len(set(engine.asked))


def test_items_of_the_start_are_selection_items_of_the_outcome() -> None:
    scores = {"selection_items": record_items({"needy": ["an older item"], "gsm8k": ["g1"]})}
    start = CutPlan(num_layers=NUM_LAYERS, removed=(7, 8), scores=scores)
    engine = NeedyEngine(num_layers=NUM_LAYERS)
    details = refine(context(tasks_objective(engine, "needy"), start=start, num_remove=2)).details
    asked = {item for _, item in engine.asked}
    assert selection_items(details) == {"needy": asked | {"an older item"}, "gsm8k": {"g1"}}
    json.dumps(details, allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"start": None}, "refine needs a plan to start from"),
        ({"start": "refine"}, "refine needs a plan to start from"),
        ({"start": "3,5"}, "the start removes 2 layers, but 3 must be removed"),
        ({"start": "reverse:2"}, "the start is reverse:2, but 3 layers must be removed; write reverse alone"),
        ({"start": "revrse:3"}, "unknown criterion 'revrse'"),
        ({"start": CutPlan(num_layers=12, removed=(1, 2, 3))}, "a plan for 12 decoder layers, and this model has 9"),
        ({"method": "swop"}, "unknown method of refine 'swop'. Did you mean swap"),
        ({"buget": 3}, "unknown setting of refine 'buget'. Did you mean budget"),
        ({"budget": 0}, "budget of refine is 0; write a whole number from 1"),
        ({"offspring": "many"}, "offspring of refine is 'many'"),
        ({"first_layer": "free"}, "unknown setting of refine 'first_layer'"),
    ],
)
def test_refuses(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        refine(context(TableObjective(random_table(0)), **settings))


def test_refuses_a_start_without_protected_layers() -> None:
    wish = context(TableObjective(random_table(0)))
    with pytest.raises(InputError, match="layer 5, which is protected"):
        refine(Context(**{**vars(wish), "protect": frozenset({5})}))
    with pytest.raises(InputError, match="refine chooses layers"):
        refine(context(None))
