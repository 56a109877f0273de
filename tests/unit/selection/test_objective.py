from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from layercut.engine.base import Decoding, always_wanted
from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective, held_out, search_settings, selected_on
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import check_report_items, held_out_items, merge_items, selection_items
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, is_right

UNCUT = CutPlan(num_layers=6)
PLANS = [CutPlan(num_layers=6, removed=removed) for removed in [(1,), (4,), (2, 5), (0, 1, 2, 3, 4)]]


def part(readout: Any = "short", limit: int | None = None, **fields: Any) -> ObjectiveTask:
    return ObjectiveTask(task=NeedyTask(**fields), readout=readout, limit=limit)


def share_right(task: NeedyTask, plan: CutPlan, limit: int | None = None) -> float:
    items = [sample.id for sample in task.samples("selection", limit)]
    return sum(is_right(item, frozenset(plan.removed)) for item in items) / len(items)


def test_value_is_the_mean_of_cut_over_uncut():
    easy, hard = part(name="easy", num_items=20), part("rank", name="hard", num_items=30, share_known=0.5)
    objective = TaskObjective(NeedyEngine(), [easy, hard])
    expected = [(share_right(easy.task, p) / 1.0 + share_right(hard.task, p) / 0.5) / 2 for p in PLANS]  # type: ignore[arg-type]
    assert objective.values(PLANS) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 2  # else the comparison says little


def test_chance_is_subtracted_on_request_and_the_floor_of_a_metric_always():
    task = part(num_items=40, share_known=0.75, chance_level=0.25)
    objective = TaskObjective(NeedyEngine(), [task], normalise="chance")
    expected = [(share_right(task.task, p) - 0.25) / 0.5 for p in PLANS]  # type: ignore[arg-type]
    assert objective.values(PLANS) == pytest.approx(expected, abs=1e-12)
    assert min(objective.values(PLANS)) < 0
    # A metric between 0 and 1 loses its floor under raw too.
    task = part(num_items=20, share_known=0.9, partial=True, chance_level=0.2)
    objective = TaskObjective(NeedyEngine(), [task])
    # 0.2 for nonsense, 1 for right: over the floor of 0.2, just the share of right answers remains.
    assert objective.values(PLANS) == pytest.approx([share_right(task.task, p) / 0.9 for p in PLANS], abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalise", ["raw", "chance"])
def test_the_uncut_model_is_worth_exactly_one(normalise):
    floored = part(name="b", num_items=49, share_known=0.6, chance_level=0.1)
    partial = part(name="c", num_items=23, share_known=0.7, partial=True, chance_level=0.2)
    tasks = [part(name="a", num_items=7), floored, partial]
    assert TaskObjective(NeedyEngine(), tasks, normalise=normalise).values([UNCUT]) == [1.0]


def test_only_selection_items_are_asked_each_once_a_plan():
    engine = NeedyEngine()
    task = part(limit=7)
    objective = TaskObjective(engine, [task, part("rank", limit=7)])
    objective.values([PLANS[0], PLANS[2]])
    objective.values([PLANS[2], CutPlan(num_layers=6, removed=(5, 2)), PLANS[1]])
    objective.report(PLANS[0])
    wanted = {sample.id for sample in task.task.samples("selection", 7)}
    assert {item for _, item in engine.asked} == wanted
    plans = {UNCUT.key, PLANS[0].key, PLANS[1].key, PLANS[2].key}
    assert Counter(engine.asked) == {(plan, item): 2 for plan in plans for item in wanted}  # two readouts


@pytest.mark.parametrize("normalise", ["raw", "chance"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"share_known": 0.0}, r"scores 0 \(0 to .*\) on 12 selection items of needy \(short\).*guessing \(0\)"),
        ({"share_known": 0.5, "chance_level": 0.5}, r"0.5 \(.*not above guessing \(0.5\).*ask more of its items"),
        ({"share_known": 0.5, "chance_level": 0.4}, r"not above guessing \(0.4\)"),
        ({"share_known": 0.0, "partial": True, "chance_level": 0.2}, r"scores 0.2 on 12"),
    ],
)
def test_a_task_on_which_nothing_can_be_lost_is_refused(fields, says, normalise):
    objective = TaskObjective(NeedyEngine(), [part(name="fine"), part(**fields)], normalise=normalise)
    with pytest.raises(InputError, match=says):
        objective.values([PLANS[0]])


def test_report_tells_scores_and_items_of_what_was_chosen():
    task = part(share_known=0.75, limit=8)
    objective = TaskObjective(NeedyEngine(), [task, part("rank", name="other")])
    report = objective.report(PLANS[0])
    about = {"task": "needy", "readout": "short", "metric": "accuracy", "n": 8, "chance": 0.0, "floor": 0.0}
    cut = share_right(task.task, PLANS[0], 8)  # type: ignore[arg-type]
    assert report["selected_scores"][0] == {**about, "uncut": 1.0, "cut": cut}
    expected = {sample.id for sample in task.task.samples("selection", 8)}
    assert selection_items(report)["needy"] == expected
    assert set(selection_items(report)) == {"needy", "other"}
    json.dumps(report, allow_nan=False)


def test_describe_names_what_decides_the_values():
    described = TaskObjective(NeedyEngine(), [part(limit=8)]).describe()
    assert described["normalise"] == "raw"
    (task,) = described["objective"]
    named = {"task": "needy", "readout": "short", "limit": 8, "num_items": 8, "version": 1}
    assert {name: task[name] for name in named} == named
    others = [part(limit=9), part(limit=8, seed=1)]
    hashes = {TaskObjective(NeedyEngine(), [other]).describe()["objective"][0]["items_hash"] for other in others}
    assert len({task["items_hash"], *hashes}) == 3
    json.dumps(described, allow_nan=False)


def test_search_settings_leave_out_what_may_change():
    settings = search_settings([part(limit=8)], Decoding())
    assert set(settings) == {"objective", "decoding"}
    assert settings["objective"] == [{"task": "needy", "readout": "short", "limit": 8, "version": 1, "seed": 0}]
    assert selected_on(TableObjective(lambda removed: 1.0), UNCUT) == {"objective": {"objective": "table"}}


def test_items_are_shown_as_they_are_answered():
    shown: list[tuple[str, int, int]] = []
    objective = TaskObjective(NeedyEngine(), [part(limit=8)], progress=lambda *recorded: shown.append(recorded))
    objective.values([PLANS[0], PLANS[2]])
    assert shown[0] == ("answers", 0, 8)  # the original model's
    assert ("answers", 4, 16) in shown
    assert shown[-1] == ("answers", 16, 16)
    assert [done for _, done, total in shown if total == 16] == sorted(done for _, done, total in shown if total == 16)


def test_all_plans_are_asked_in_one_call_a_chunk_and_sampled_with_the_same_noise():
    calls: list[tuple[int, int, Decoding]] = []

    class Watched(NeedyEngine):
        def ask(self, requests: Any, plans: Any, decoding: Any, wanted: Any = always_wanted) -> Any:
            calls.append((len(requests), len(plans), decoding))
            return super().ask(requests, plans, decoding, wanted)

    decoding = Decoding(temperature=0.9, seed=3)
    TaskObjective(Watched(), [part(num_items=20)], decoding=decoding).values(PLANS)
    assert calls == [(20, 1, decoding), (20, 4, decoding)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TaskObjective(NeedyEngine(), []), "at least one task"),
        (lambda: TaskObjective(NeedyEngine(), [part(), part(limit=3)]), r"needy \(short\) more than once"),
        (lambda: TaskObjective(NeedyEngine(), [part()], normalise="chnce"), "Did you mean chance"),  # type: ignore[arg-type]
        (lambda: TaskObjective(NeedyEngine(), [part(num_items=0)]), "needy has no selection items"),
        (lambda: TaskObjective(NeedyEngine(), [part()], race="exct"), "Did you mean exact"),  # type: ignore[arg-type]
        (lambda: part("chain"), "unknown readout of needy 'chain'"),
    ],
)
def test_refuses(make, says):
    with pytest.raises(InputError, match=says):
        make()


PLAN = CutPlan(num_layers=6, removed=(4,))
TASK = NeedyTask(num_items=60)
IDS = [sample.id for sample in TASK.samples("selection", None)]


def both_readouts(engine: NeedyEngine | None = None, limit: int | None = 12) -> TaskObjective:
    parts = [ObjectiveTask(task=TASK, readout=readout, limit=limit) for readout in ("short", "rank")]  # type: ignore[arg-type]
    return TaskObjective(engine or NeedyEngine(), parts)


def share(ids: list[str]) -> float:
    return sum(is_right(item, frozenset(PLAN.removed)) for item in ids) / len(ids)


def test_items_behind_those_of_the_search_as_many_as_it_had():
    engine = NeedyEngine()
    chosen_by = both_readouts(engine)
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
    # The number can be chosen, and what an earlier search saw is left out.
    earlier = merge_items(chosen_by.items, {"needy": IDS[20:30]})
    fourteen = held_out(chosen_by, PLAN, num_items=14, seen=earlier)
    assert fourteen["items"]["needy"]["ids"] == sorted(IDS[12:20] + IDS[30:36])
    # No report on held-out items by accident.
    plan = replace(PLAN, scores={"held_out": found})
    assert held_out_items(plan.scores) == {"needy": frozenset(IDS[12:24])}
    with pytest.raises(InputError, match="2 of these 3"):
        check_report_items([plan], "needy", [IDS[12], IDS[23], IDS[24]])
    with pytest.raises(InputError, match="1 of these 2 .*held-out"):
        check_report_items([plan], "needy", [IDS[12], IDS[24]])
    check_report_items([plan], "needy", IDS[24:])


def test_a_search_that_was_given_all_items_holds_none_out():
    found = both_readouts(limit=None)
    all_seen = held_out(found, PLAN, num_items=None, seen=found.items)
    assert [row["held_out"] for row in all_seen["rows"]] == [None, None]
    assert all_seen["objective"]["held_out"] is None
    assert "needy (short), needy (rank)" in all_seen["objective"]["refused"]
    assert all_seen["items"]["needy"]["num_items"] == 0


def test_the_best_of_many_noisy_plans_looks_better_than_it_is():
    # 30 plans that all answer half of the items; which ones is chance. The best of them on 20 items is still a half.
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
