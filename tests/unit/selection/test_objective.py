from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from layercut.engine.base import Decoding, always_wanted
from layercut.errors import InputError
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective, search_settings, selected_on
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import selection_items
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, is_right

UNCUT = CutPlan(num_layers=6)
PLANS = [CutPlan(num_layers=6, removed=removed) for removed in [(1,), (4,), (2, 5), (0, 1, 2, 3, 4)]]


def part(readout: Any = "short", limit: int | None = None, **fields: Any) -> ObjectiveTask:
    return ObjectiveTask(task=NeedyTask(**fields), readout=readout, limit=limit)


def share_right(task: NeedyTask, plan: CutPlan, limit: int | None = None) -> float:
    items = [sample.id for sample in task.samples("selection", limit)]
    return sum(is_right(item, frozenset(plan.removed)) for item in items) / len(items)


def test_value_is_the_mean_of_cut_over_uncut() -> None:
    easy, hard = part(name="easy", num_items=20), part("rank", name="hard", num_items=30, share_known=0.5)
    objective = TaskObjective(NeedyEngine(), [easy, hard])
    expected = [(share_right(easy.task, p) / 1.0 + share_right(hard.task, p) / 0.5) / 2 for p in PLANS]  # type: ignore[arg-type]
    assert objective.values(PLANS) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 2  # else the comparison says little


def test_chance_is_subtracted_on_request() -> None:
    task = part(num_items=40, share_known=0.75, chance_level=0.25)
    objective = TaskObjective(NeedyEngine(), [task], normalise="chance")
    expected = [(share_right(task.task, p) - 0.25) / 0.5 for p in PLANS]  # type: ignore[arg-type]
    assert objective.values(PLANS) == pytest.approx(expected, abs=1e-12)
    assert min(objective.values(PLANS)) < 0


def test_a_metric_between_0_and_1_loses_its_floor_under_raw_too() -> None:
    task = part(num_items=20, share_known=0.9, partial=True, chance_level=0.2)
    objective = TaskObjective(NeedyEngine(), [task])
    # 0.2 for nonsense, 1 for right: over the floor of 0.2, just the share of right answers remains.
    assert objective.values(PLANS) == pytest.approx([share_right(task.task, p) / 0.9 for p in PLANS], abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("normalise", ["raw", "chance"])
def test_the_uncut_model_is_worth_exactly_one(normalise: Any) -> None:
    floored = part(name="b", num_items=49, share_known=0.6, chance_level=0.1)
    partial = part(name="c", num_items=23, share_known=0.7, partial=True, chance_level=0.2)
    tasks = [part(name="a", num_items=7), floored, partial]
    assert TaskObjective(NeedyEngine(), tasks, normalise=normalise).values([UNCUT]) == [1.0]


def test_only_selection_items_are_asked_each_once_a_plan() -> None:
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
def test_a_task_on_which_nothing_can_be_lost_is_refused(fields: dict[str, Any], says: str, normalise: Any) -> None:
    objective = TaskObjective(NeedyEngine(), [part(name="fine"), part(**fields)], normalise=normalise)
    with pytest.raises(InputError, match=says):
        objective.values([PLANS[0]])


def test_all_plans_are_sampled_with_the_same_noise() -> None:
    asked: list[Decoding] = []

    class Watched(NeedyEngine):
        def completions(self, requests: Sequence[Any], plan: CutPlan, decoding: Decoding, done: Any = ()) -> Any:
            asked.append(decoding)
            return super().completions(requests, plan, decoding, done)

    decoding = Decoding(temperature=0.9, seed=3)
    TaskObjective(Watched(), [part()], decoding=decoding).values(PLANS)
    assert asked == [decoding] * 5


def test_report_tells_scores_and_items_of_what_was_chosen() -> None:
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


def test_describe_names_what_decides_the_values() -> None:
    described = TaskObjective(NeedyEngine(), [part(limit=8)]).describe()
    assert described["normalise"] == "raw"
    (task,) = described["objective"]
    named = {"task": "needy", "readout": "short", "limit": 8, "num_items": 8, "version": 1}
    assert {name: task[name] for name in named} == named
    others = [part(limit=9), part(limit=8, seed=1)]
    hashes = {TaskObjective(NeedyEngine(), [other]).describe()["objective"][0]["items_hash"] for other in others}
    assert len({task["items_hash"], *hashes}) == 3
    json.dumps(described, allow_nan=False)


def test_search_settings_leave_out_what_may_change() -> None:
    settings = search_settings([part(limit=8)], Decoding())
    assert set(settings) == {"objective", "decoding"}
    assert settings["objective"] == [{"task": "needy", "readout": "short", "limit": 8, "version": 1, "seed": 0}]


def test_another_kind_of_objective_says_what_it_is() -> None:
    assert selected_on(TableObjective(lambda removed: 1.0), UNCUT) == {"objective": {"objective": "table"}}


def test_items_are_shown_as_they_are_answered() -> None:
    shown: list[tuple[str, int, int]] = []
    objective = TaskObjective(NeedyEngine(), [part(limit=8)], progress=lambda *recorded: shown.append(recorded))
    objective.values([PLANS[0], PLANS[2]])
    assert shown[0] == ("answers", 0, 8)  # the original model's
    assert ("answers", 4, 16) in shown
    assert shown[-1] == ("answers", 16, 16)
    assert [done for _, done, total in shown if total == 16] == sorted(done for _, done, total in shown if total == 16)


def test_all_plans_are_asked_in_one_call_a_heat() -> None:
    calls: list[tuple[int, int]] = []

    class Watched(NeedyEngine):
        def ask(self, requests: Any, plans: Any, decoding: Any, wanted: Any = always_wanted) -> Any:
            calls.append((len(requests), len(plans)))
            return super().ask(requests, plans, decoding, wanted)

    TaskObjective(Watched(), [part(num_items=20)]).values(PLANS)
    assert calls == [(20, 1), (20, 4)]


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
def test_refuses(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
