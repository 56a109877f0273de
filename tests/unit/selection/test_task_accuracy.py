from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.selection import criterion
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.task_accuracy import task_accuracy
from layercut.tasks.selected_items import selection_items
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, is_right


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


def test_is_known_by_name() -> None:
    assert criterion("task_accuracy") is task_accuracy


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
    with pytest.raises(InputError, match="no settings, but 'first_layer'"):
        task_accuracy(context(settings={"first_layer": "free"}))
    with pytest.raises(InputError, match="cannot remove 2 layers: 1 of 3"):
        context(num_layers=3, protect=frozenset({0, 1}))
