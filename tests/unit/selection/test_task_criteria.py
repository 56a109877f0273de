from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Divergence, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import correct_traces, task_accuracy, trace_damage
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import selection_items
from tests.support.engines import divergences
from tests.support.fake_engine import Killed
from tests.support.loaded import tiny_loaded
from tests.support.search import NeedyEngine, NeedyTask, TableObjective, is_right

DAMAGE = {
    "kl": {0: 9.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 1.0, 5: 8.0},
    "nll": {0: 9.0, 1: 8.0, 2: 7.0, 3: 1.0, 4: 5.0, 5: 2.0},
}


def damage(name: str, plan: CutPlan) -> float:
    return float(sum(DAMAGE[name][layer] for layer in plan.removed))


class TracedEngine(NeedyEngine):
    """Answers a NeedyTask; traces of two tokens lose what a table says, the later ones more."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.measured: list[tuple[str, LikelihoodRequest]] = []

    def __post_init__(self) -> None:
        super().__post_init__()
        self.damage = self._damage
        self.scores = self._score

    def _damage(self, request: LikelihoodRequest, plan: CutPlan, reference: CutPlan) -> Divergence:
        assert reference.is_uncut
        self.measured.append((plan.key, request))
        kl, nll = (damage(name, plan) for name in DAMAGE)
        return Divergence(id=request.id, num_tokens=2, nll=1 + nll, reference_nll=1, kl=kl)

    def _score(self, request: LikelihoodRequest, plan: CutPlan) -> tuple[float, ...]:
        self.measured.append((plan.key, request))
        return tuple(-1 - damage("nll", plan) for _ in request.continuations)


PARTS = (
    ObjectiveTask(task=NeedyTask(name="one", num_items=10, share_known=0.6), readout="short", limit=None),
    ObjectiveTask(task=NeedyTask(name="two", num_items=10, share_known=0.3), readout="short", limit=8),
    ObjectiveTask(task=NeedyTask(name="two", num_items=10), readout="rank", limit=None),
)


def context(engine: NeedyEngine | None = None, parts: Any = PARTS, journal: Any = None, **fields: Any) -> Context:
    engine = engine or TracedEngine()
    objective = TaskObjective(engine, parts, journal=journal)
    return Context(**{"num_layers": 6, "num_remove": 2, "engine": engine, "objective": objective, **fields})


def test_only_right_answers_are_traces_and_only_text_that_was_written():
    engine = TracedEngine()
    selection = trace_damage(context(engine))
    samples = [
        (part.task.name, sample.id) for part in PARTS[:2] for sample in part.task.samples("selection", part.limit)
    ]
    wanted = {f"{task}.short.{name}" for task, name in samples if not name.endswith("unknown")}
    assert len(wanted) == 6 + 3
    assert {request.id for _, request in engine.measured} == wanted
    assert {(request.prompt, request.continuations) for _, request in engine.measured} == {("?", ("yes",))}
    assert selection.details["num_traces"] == 9
    assert selection.details["traces"] == {"one (short)": 6, "two (short)": 3}
    items = selection_items(selection.details)  # every item that was asked
    assert {task: len(ids) for task, ids in items.items()} == {"one": 10, "two": 8}
    assert ("log_likelihoods", "uncut") not in engine.calls, "what is ranked is not asked"


def test_traces_keep_the_completion_and_the_prompt_as_they_were():
    """A wrong answer, a blank one and one cut short are no traces; a chain is kept whole, from its first space on."""

    class Chains(NeedyTask):
        def request(self, sample: Any, readout: Any) -> GenerationRequest:
            return GenerationRequest(id=sample.id, prompt=f"{sample.id}?", max_new_tokens=9)

        def grade(self, sample: Any, readout: Any, answer: Any) -> Any:
            return super().grade(sample, readout, replace(answer, text="yes" if "yes" in answer.text else answer.text))

    task = Chains(num_items=4)
    ids = [sample.id for sample in task.samples("selection", None)]
    texts = dict(zip(ids, (" so: yes", "no", " ", "well, yes"), strict=True))
    engine = TracedEngine()
    engine.texts = texts
    objective = TaskObjective(engine, [ObjectiveTask(task=task, readout="short")])
    requests = correct_traces(objective).requests
    assert [(r.prompt, r.continuations) for r in requests] == [
        (f"{ids[0]}?", (" so: yes",)),
        (f"{ids[3]}?", ("well, yes",)),
    ]


def test_one_shot_ranks_by_the_divergence_per_token():
    selection = trace_damage(context())
    assert selection.importance == pytest.approx({layer: value / 2 for layer, value in DAMAGE["kl"].items()})
    assert list(selection.removed) == sorted(range(6), key=lambda layer: (DAMAGE["kl"][layer], -layer))[:2]
    details = selection.details
    json.dumps(details, allow_nan=False)
    assert details["search"] == "one_shot" and details["num_tokens"] == 18
    assert details["without"]["1"] == {"nll": 4.5, "kl": 1.0} and details["uncut"] == {"nll": 0.5, "kl": 0}


def test_greedy_judges_what_is_gone_already():
    class Together(TracedEngine):
        def _damage(self, request: LikelihoodRequest, plan: CutPlan, reference: CutPlan) -> Divergence:
            found = super()._damage(request, plan, reference)
            return replace(found, kl=found.kl + 10) if {4, 1} <= set(plan.removed) else found

    assert trace_damage(context(Together())).removed == (4, 1)
    selection = trace_damage(context(Together(), settings={"search": "greedy"}))
    assert selection.removed == (4, 2)
    assert [round_["value"] for round_ in selection.details["rounds"]] == [-0.5, -2.0]


def test_killed_and_resumed_is_run_through_and_nothing_is_measured_twice(tmp_path):
    def select(path: Path, engine: TracedEngine, **settings: str) -> Selection:
        with RunFolder.begin(path, {"a": 1}) as folder, SearchJournal(folder) as journal:
            return trace_damage(context(engine, journal=journal, folder=folder, settings=settings))

    straight = TracedEngine()
    through = select(tmp_path / "through", straight)
    assert set(Counter((plan, request.id) for plan, request in straight.measured).values()) == {1}
    asked: list[tuple[str, str]] = []
    measured: list[tuple[str, str]] = []
    for kill_after in (1, 4, 6, None):
        engine = TracedEngine(kill_after=kill_after)
        try:
            found: Any = select(tmp_path / "killed", engine)
        except Killed:
            found = None
        asked += engine.asked
        measured += [(plan, request.id) for plan, request in engine.measured]
    assert found == through
    assert sorted(asked) == sorted(straight.asked)
    assert sorted(measured) == sorted((plan, request.id) for plan, request in straight.measured)

    other = TracedEngine()
    select(tmp_path / "killed", other, search="greedy")
    assert not other.asked, "the answers are there"
    assert len({plan for plan, _ in other.measured}) == 5, "of the greedy search only the second round is new"


def test_on_a_real_engine_the_damage_is_that_of_the_engine():
    engine = PlainEngine(tiny_loaded("llama"), batch_size=4)

    class Anything(NeedyTask):
        def grade(self, sample: Any, readout: Any, answer: Any) -> Any:
            return super().grade(sample, readout, replace(answer, text="yes"))

        def request(self, sample: Any, readout: Any) -> GenerationRequest:
            return GenerationRequest(id=sample.id, prompt=f"{sample.id} =", max_new_tokens=12)

    objective = TaskObjective(engine, [ObjectiveTask(task=Anything(num_items=6), readout="short")])
    requests = correct_traces(objective).requests
    assert requests
    selection = trace_damage(Context(num_layers=6, num_remove=1, engine=engine, objective=objective))
    uncut = CutPlan(num_layers=6)
    for layer in range(6):
        plan = CutPlan(num_layers=6, removed=(layer,))
        found = [one for batch in divergences(engine, requests, plan, uncut) for one in batch]
        mean = sum(one.kl for one in found) / sum(one.num_tokens for one in found)
        assert selection.importance[layer] == pytest.approx(mean, rel=1e-9)


def test_damage_refuses_what_it_cannot_do():
    none = (ObjectiveTask(task=NeedyTask(name="hard", share_known=0), readout="short"),)
    for asked, message in (
        (context(parts=none), r"hard \(short\) right"),
        (context(parts=PARTS[2:]), "a task that generates"),
        (context(objective=None), "name the tasks"),
        (context(objective=TableObjective(lambda removed: 1.0)), "TaskObjective"),
        (context(settings={"measure": "kl"}), "unknown setting of trace_damage 'measure'"),
    ):
        with pytest.raises(InputError, match=message):
            trace_damage(asked)


WRITTEN = [ObjectiveTask(task=NeedyTask(name=name, num_items=15), readout="short") for name in ("one", "two")]


def accuracy(engine: NeedyEngine | None = None, **fields: Any) -> Selection:
    return task_accuracy(context(engine or NeedyEngine(), WRITTEN, **fields))


def test_removes_what_the_items_need_least():
    """As the paper's loop does on the items themselves: layer 0 stays, the later layer wins ties."""
    items = [sample.id for part in WRITTEN for sample in part.task.samples("selection", None)]
    removed: list[int] = []
    for num_remove in (1, 2, 3):
        right = {
            layer: sum(is_right(item, frozenset([*removed, layer])) for item in items)
            for layer in range(1, 6)
            if layer not in removed
        }
        removed.append(max(layer for layer in right if right[layer] == max(right.values())))
        assert list(accuracy(num_remove=num_remove).removed) == removed


@pytest.mark.parametrize(
    ("protect", "expected"),
    [
        (None, [0]),
        (frozenset(), []),
        (frozenset({2, 3}), [2, 3]),  # layers that the caller protects are taken as they are
        (frozenset({0, 3}), [0, 3]),
    ],
)
def test_which_layers_are_protected(protect, expected):
    # Every removal helps the more the earlier the layer stands, so whatever is free goes from the front.
    objective = TableObjective(lambda removed: float(sum(10 - layer for layer in removed)))
    selection = accuracy(objective=objective, protect=protect)
    assert selection.details["protect"] == expected
    assert list(selection.removed) == [layer for layer in range(6) if layer not in expected][:2]


def test_details_say_what_was_measured_and_on_what():
    details = accuracy().details
    json.dumps(details, allow_nan=False)
    assert details["uncut"] == 1.0
    assert details["value"] == details["rounds"][1]["value"]
    assert details["value"] == pytest.approx(sum(row["cut"] for row in details["selected_scores"]) / 2)
    assert {task: len(ids) for task, ids in selection_items(details).items()} == {"one": 15, "two": 15}
    assert [task["task"] for task in details["objective"]["objective"]] == ["one", "two"]


def test_a_shortlist_as_long_as_the_candidates_finds_what_all_of_them_do_but_for_ties():
    selection = accuracy(TracedEngine(), num_remove=3, settings={"shortlist": 5})
    whole = accuracy(TracedEngine(), num_remove=3)
    values = [{row["value"] for row in found.details["rounds"]} for found in (selection, whole)]
    assert values[0] == values[1]
    assert selection.details["rounds"][0]["candidates"] == [5, 3, 2, 1, 4]  # by damage, the least last


def test_only_the_candidates_with_the_least_damage_beside_what_is_gone_answer():
    engine = TracedEngine()
    selection = accuracy(engine, num_remove=3, settings={"shortlist": 2, "traces": 3})
    rounds = selection.details["rounds"]
    assert [set(row["candidates"]) for row in rounds[:1]] == [{1, 4}]
    assert all(len(row["candidates"]) == 2 for row in rounds)
    assert len({plan for plan, _ in engine.asked}) == 1 + 2 + 2 + 2
    assert len({request.id for _, request in engine.measured}) == 2 * 3  # right answers of each task
    assert {selection.details[name] for name in ("shortlist", "traces")} == {2, 3}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"settings": {"shortlist": 0}}, "shortlist of task_accuracy is 0; write a whole number from 1"),
        ({"settings": {"shortlist": 3, "traces": "few"}}, "traces of task_accuracy is 'few'"),
        ({"settings": {"traces": 3}}, "no effect without a shortlist"),
        ({"settings": {"first_layer": "free"}}, "unknown setting of task_accuracy 'first_layer'"),
        ({"objective": None}, "name the tasks"),
        ({"num_layers": 3, "protect": frozenset({0, 1})}, "cannot remove 2 layers: 1 of 3"),
    ],
)
def test_accuracy_refuses_what_it_cannot_do(fields, words):
    with pytest.raises(InputError, match=words):
        accuracy(TracedEngine(), **fields)
