from __future__ import annotations

import json
from typing import Any

import pytest

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective, held_out
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import check_report_items, held_out_items, merge_items
from tests.support.search import NeedyEngine, NeedyTask, is_right

PLAN = CutPlan(num_layers=6, removed=(4,))
TASK = NeedyTask(num_items=60)
IDS = [sample.id for sample in TASK.samples("selection", None)]


def objective(engine: NeedyEngine | None = None, *, limit: int | None = 12, **fields: Any) -> TaskObjective:
    parts = [ObjectiveTask(task=TASK, readout=readout, limit=limit) for readout in ("short", "rank")]
    return TaskObjective(engine or NeedyEngine(), parts, decoding=Decoding(), **fields)  # type: ignore[arg-type]


def judged(**wish: Any) -> dict[str, Any]:
    found = objective()
    return held_out(found, PLAN, **{"num_items": None, "seen": found.items, **wish})


def share(ids: list[str]) -> float:
    return sum(is_right(item, frozenset(PLAN.removed)) for item in ids) / len(ids)


def test_items_behind_those_of_the_search_as_many_as_it_had() -> None:
    engine = NeedyEngine()
    chosen_by = objective(engine)
    chosen_by.values([PLAN])
    before = set(engine.asked)
    found = held_out(chosen_by, PLAN, num_items=None, seen=chosen_by.items)
    assert found["items"]["needy"]["ids"] == sorted(IDS[12:24])
    assert {item for _, item in set(engine.asked) - before} == set(IDS[12:24])  # and none of the search's once more
    report = {sample.id for sample in TASK.samples("report", None)}
    assert not report & {item for _, item in engine.asked}
    for row in found["rows"]:
        assert row["selected"]["cut"]["value"] == pytest.approx(share(IDS[:12]))
        assert row["held_out"]["cut"]["value"] == pytest.approx(share(IDS[12:24]))
        assert (row["selected"]["n"], row["held_out"]["n"]) == (12, 12)
        assert row["held_out"]["difference"]["low"] < row["held_out"]["difference"]["value"]
    assert found["objective"]["selected"] == chosen_by.values([PLAN])[0]
    assert found["objective"]["held_out"]["value"] == pytest.approx(share(IDS[12:24]))
    assert found["objective"]["held_out"]["n"] == 24  # two readouts
    assert json.loads(json.dumps(found)) == found


def test_the_number_can_be_chosen_and_what_an_earlier_search_saw_is_left_out() -> None:
    earlier = merge_items(objective().items, {"needy": IDS[20:30]})
    assert judged(num_items=14, seen=earlier)["items"]["needy"]["ids"] == sorted(IDS[12:20] + IDS[30:36])


def test_a_search_that_was_given_all_items_holds_none_out() -> None:
    found = objective(limit=None)
    all_seen = held_out(found, PLAN, num_items=None, seen=found.items)
    assert [row["held_out"] for row in all_seen["rows"]] == [None, None]
    assert all_seen["objective"]["held_out"] is None
    assert "needy (short), needy (rank)" in all_seen["objective"]["refused"]
    assert all_seen["items"]["needy"]["num_items"] == 0


def test_no_report_on_held_out_items_by_accident() -> None:
    plan = CutPlan(num_layers=6, removed=(4,), scores={"held_out": judged()})
    assert held_out_items(plan.scores) == {"needy": frozenset(IDS[12:24])}
    with pytest.raises(InputError, match="2 of these 3"):
        check_report_items([plan], "needy", [IDS[12], IDS[23], IDS[24]])
    with pytest.raises(InputError, match="1 of these 2 .*held-out"):
        check_report_items([plan], "needy", [IDS[12], IDS[24]])
    check_report_items([plan], "needy", IDS[24:])


def test_the_best_of_many_noisy_plans_looks_better_than_it_is() -> None:
    # 30 plans that all answer half of the items; which ones is chance. The best of them on 20 items is still a half.
    from random import Random

    class Coins(NeedyEngine):
        def _answer(self, item: str, plan: CutPlan) -> bool:
            return not plan.removed or Random(f"{item} {plan.removed}").random() < 0.5

    task = NeedyTask(num_items=400)
    part = ObjectiveTask(task=task, readout="short", limit=20)
    chosen_by = TaskObjective(Coins(num_layers=40), [part])
    plans = [CutPlan(num_layers=40, removed=(layer,)) for layer in range(30)]
    values = chosen_by.values(plans)
    best = max(range(30), key=values.__getitem__)
    found = held_out(chosen_by, plans[best], num_items=300, seen=chosen_by.items)["objective"]
    assert found["selected"] == max(values) >= 0.7
    assert found["held_out"]["high"] < found["selected"]
    assert found["held_out"]["low"] < 0.5 < found["held_out"]["high"]
