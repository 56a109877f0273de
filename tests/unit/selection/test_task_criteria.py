from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.objective import TaskObjective
from layercut.selection.task_criteria import task_accuracy
from layercut.tasks.selected_items import selection_items
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, is_right
from tests.unit.selection.test_trace_damage import TracedEngine


def context(engine: NeedyEngine | None = None, **fields: Any) -> Context:
    tasks = [ObjectiveTask(task=NeedyTask(name=name, num_items=15), readout="short") for name in ("one", "two")]
    objective = TaskObjective(engine or NeedyEngine(), tasks)
    return Context(**{"num_layers": 6, "num_remove": 2, "objective": objective, **fields})


def by_hand(num_remove: int) -> list[int]:
    """The paper's loop on the items themselves: layer 0 stays, the later layer wins ties."""
    items = [[s.id for s in NeedyTask(name=name, num_items=15).samples("selection", None)] for name in ("one", "two")]
    removed: list[int] = []
    for _ in range(num_remove):
        right = {
            layer: sum(is_right(item, frozenset([*removed, layer])) for task in items for item in task)
            for layer in range(1, 6)
            if layer not in removed
        }
        removed.append(max(layer for layer in right if right[layer] == max(right.values())))
    return removed


def test_removes_what_the_items_need_least() -> None:
    for num_remove in (1, 2, 3):
        assert list(task_accuracy(context(num_remove=num_remove)).removed) == by_hand(num_remove)


@pytest.mark.parametrize(
    ("protect", "expected"),
    [
        (None, [0]),
        (frozenset(), []),
        (frozenset({2, 3}), [2, 3]),  # layers that the caller protects are taken as they are
        (frozenset({0, 3}), [0, 3]),
    ],
)
def test_which_layers_are_protected(protect: frozenset[int] | None, expected: list[int]) -> None:
    # Every removal helps the more the earlier the layer stands, so whatever is free goes from the front.
    objective = TableObjective(lambda removed: float(sum(10 - layer for layer in removed)))
    selection = task_accuracy(context(objective=objective, protect=protect))
    assert selection.details["protect"] == expected
    assert list(selection.removed) == [layer for layer in range(6) if layer not in expected][:2]


def test_no_item_is_scored_twice_and_the_uncut_model_once() -> None:
    engine = NeedyEngine()
    task_accuracy(context(engine, num_remove=3))
    assert set(Counter(engine.asked).values()) == {1}
    assert len({plan for plan, _ in engine.asked}) == 1 + 5 + 4 + 3


def test_details_say_what_was_measured_and_on_what() -> None:
    selection = task_accuracy(context())
    details = selection.details
    json.dumps(details, allow_nan=False)
    assert details["uncut"] == 1.0
    assert details["value"] == details["rounds"][1]["value"]
    assert details["value"] == pytest.approx(sum(row["cut"] for row in details["selected_scores"]) / 2)
    assert {task: len(ids) for task, ids in selection_items(details).items()} == {"one": 15, "two": 15}
    assert [task["task"] for task in details["objective"]["objective"]] == ["one", "two"]


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match="name the tasks"):
        task_accuracy(context(objective=None))
    with pytest.raises(InputError, match="unknown setting of task_accuracy 'first_layer'"):
        task_accuracy(context(settings={"first_layer": "free"}))
    with pytest.raises(InputError, match="cannot remove 2 layers: 1 of 3"):
        context(num_layers=3, protect=frozenset({0, 1}))


def shortlisted(shortlist: int, **settings: Any) -> tuple[TracedEngine, Selection]:
    engine = TracedEngine()
    return engine, task_accuracy(context(engine, num_remove=3, settings={"shortlist": shortlist, **settings}))


def test_a_shortlist_as_long_as_the_candidates_finds_what_all_of_them_do_but_for_ties() -> None:
    _, selection = shortlisted(5)
    whole = task_accuracy(context(TracedEngine(), num_remove=3))
    values = [{row["value"] for row in found.details["rounds"]} for found in (selection, whole)]
    assert values[0] == values[1]
    assert selection.details["rounds"][0]["candidates"] == [5, 3, 2, 1, 4]  # by damage, the least last


def test_only_the_candidates_with_the_least_damage_beside_what_is_gone_answer() -> None:
    engine, selection = shortlisted(2, traces=3)
    rounds = selection.details["rounds"]
    assert [set(row["candidates"]) for row in rounds[:1]] == [{1, 4}]
    assert all(len(row["candidates"]) == 2 for row in rounds)
    assert len({plan for plan, _ in engine.asked}) == 1 + 2 + 2 + 2
    assert len({request.id for _, request in engine.measured}) == 2 * 3  # right answers of each task
    assert {selection.details[name] for name in ("shortlist", "traces")} == {2, 3}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shortlist": 0}, "shortlist of task_accuracy is 0; write a whole number from 1"),
        ({"shortlist": 3, "traces": "few"}, "traces of task_accuracy is 'few'"),
        ({"traces": 3}, "no effect without a shortlist"),
    ],
)
def test_a_shortlist_that_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        task_accuracy(context(TracedEngine(), settings=settings))
