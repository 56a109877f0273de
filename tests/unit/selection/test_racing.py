"""The race itself, on tables of answers: the same winner as without it, whatever the order in which answers come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.greedy import place_of_highest
from layercut.selection.objective import TaskObjective
from layercut.selection.racing import run_race_round
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import task_accuracy
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample, Score
from tests.support.search import NeedyEngine, NeedyTask

Table = list[list[list[float]]]
"""Metric per candidate, task and item."""


class Asking:
    """Answers from a table, a few items of one candidate at a time, in an order of its own."""

    def __init__(self, table: Table, chunk: int, order: Random, piece: int = 3) -> None:
        self.table = table
        self.sizes = [[len(of[start : start + chunk]) for start in range(0, len(of), chunk)] for of in table[0]]
        self.chunk = chunk
        self.order = order
        self.piece = piece
        self.num_answered = [0] * len(table)
        self.num_refused = 0
        """Pieces that were not wanted any more when their turn came."""
        self.calls: list[tuple[Any, ...]] = []
        """Tasks, numbers of the chunks, places."""

    def __call__(self, group, chunks, places, wanted, learn):
        self.calls.append((*group, tuple(chunks), tuple(places)))
        pieces = []
        for task in group:
            for place in places:
                metrics = self.table[place][task][chunks[0] * self.chunk : (chunks[-1] + 1) * self.chunk]
                cuts = range(0, len(metrics), self.piece)
                pieces += [(task, place, metrics[start : start + self.piece]) for start in cuts]
        self.order.shuffle(pieces)
        for task, place, metrics in pieces:
            if wanted(place):
                learn(task, place, metrics)
                self.num_answered[place] += len(metrics)
            else:
                self.num_refused += 1


def combiner(rng: Random, num_tasks: int) -> Callable[[Sequence[float]], float]:
    """The mean over tasks of (s - floor) / (uncut - floor), raw or above chance."""
    floors = [rng.choice([0.0, 0.0, 1 / 3, 0.25]) for _ in range(num_tasks)]
    uncut = [floor + rng.choice([0.1, 0.37, 0.5]) for floor in floors]

    def combine(scores: Sequence[float]) -> float:
        parts = [(s - floor) / (u - floor) for s, floor, u in zip(scores, floors, uncut, strict=True)]
        return math.fsum(parts) / len(parts)

    return combine


def random_table(rng: Random) -> Table:
    """Some candidates that differ a lot, hardly or not at all, on tasks of uneven length."""
    sizes = [rng.choice([1, 5, 8, 20, 33]) for _ in range(rng.randint(1, 3))]
    levels = rng.choice([[0.0, 1.0], [0.0, 1.0], [0.0, 0.1, 0.7, 1.0]])
    rates = [rng.choice([0.2, 0.8, 0.85, 0.9]) for _ in range(rng.randint(1, 9))]
    table = [[[rng.choice(levels[1:]) if rng.random() < p else 0.0 for _ in range(n)] for n in sizes] for p in rates]
    if len(table) > 2 and rng.random() < 0.5:
        table[rng.randrange(len(table))] = table[rng.randrange(len(table))]  # a tie
    return table


def values_of(table: Table, combine: Callable[[Sequence[float]], float]) -> list[float]:
    return [combine([math.fsum(metrics) / len(metrics) for metrics in tasks]) for tasks in table]


@pytest.mark.parametrize("seed", range(150))
def test_exact_racing_finds_what_a_round_without_racing_finds(seed):
    rng = Random(seed)
    table, chunk = random_table(rng), rng.choice([2, 4, 7])
    combine = combiner(rng, len(table[0]))
    values = values_of(table, combine)
    asking = Asking(table, chunk, Random(seed))
    found = run_race_round(asking, len(table), asking.sizes, combine)
    best = place_of_highest(values)
    num_items = sum(map(len, table[0]))
    assert found.num_items == num_items
    assert found.candidates[best] == (values[best], values[best], num_items)
    for place, one in enumerate(found.candidates):
        assert one.value in (None, values[place])
        assert values[place] <= one.upper_bound <= values[best]
        assert asking.num_answered[place] <= one.num_answered <= num_items
    again = Asking(table, chunk, Random(seed + 1), piece=1)
    assert run_race_round(again, len(table), again.sizes, combine) == found, "the order of the engine changes nothing"


@pytest.mark.parametrize("seed", range(80))
def test_tasks_that_are_asked_together_are_raced_to_the_same_end(seed):
    rng = Random(seed)
    table, chunk = random_table(rng), rng.choice([2, 4, 7])
    table = [[*of_place, rng.sample(of_place[0], len(of_place[0]))] for of_place in table]  # as long as the first
    num_tasks = len(table[0])
    combine = combiner(rng, num_tasks)
    values = values_of(table, combine)
    asking = Asking(table, chunk, Random(seed))
    groups = [(0, num_tasks - 1), *((task,) for task in range(1, num_tasks - 1))]
    together = [tuple(range(num_tasks))] if seed % 2 else None  # of uneven lengths
    found = run_race_round(asking, len(table), asking.sizes, combine, groups=groups, together=together)
    best = place_of_highest(values)
    assert found.candidates[best] == (values[best], values[best], sum(map(len, table[0])))
    for place, one in enumerate(found.candidates):
        assert one.value in (None, values[place])
        assert values[place] <= one.upper_bound <= values[best]
    assert [call[:-2] for call in asking.calls if call[-2] == (0,)] == (together or groups)
    later = {call[:-2] for call in asking.calls if call[-2] != (0,) and len(call[-1]) > 1}
    assert later <= set(groups), "each of them may stop a candidate"
    if together is None:
        assert {call[:-2] for call in asking.calls} == set(groups)


def test_candidates_that_cannot_win_are_not_asked_to_the_end():
    good, bad = [1.0] * 60, [0.0] * 60
    asking = Asking([[bad], [good], [bad]], 10, Random(0))
    found = run_race_round(asking, 3, asking.sizes, lambda scores: scores[0])
    assert [one.num_answered for one in found.candidates] == [10, 60, 10]
    assert [one.value for one in found.candidates] == [None, 1.0, None]
    assert asking.calls == [(0, (0,), (0, 1, 2)), (0, (1, 2, 3, 4), (1,)), (0, (5,), (1,))]
    # Of equals the later one wins, and an earlier one stops when it can only tie.
    same = [1.0, 0.0] * 20
    asking = Asking([[same], [same], [same]], 10, Random(0))
    found = run_race_round(asking, 3, asking.sizes, lambda scores: scores[0])
    assert found.candidates[2].value == 0.5
    assert all(one.value in (None, 0.5) and one.upper_bound == 0.5 for one in found.candidates)


def test_inside_a_chunk_it_is_asked_again_who_is_wanted():
    """The rival's answers to the second task settle the first candidate's fate before that one's turn comes."""

    class InTurn(Asking):
        def __call__(self, group, chunks, places, wanted, learn):  # type: ignore[no-untyped-def]
            super().__call__(group, chunks, sorted(places, reverse=True), wanted, learn)

    table = [[[0.0] * 4, [1.0] * 4, [1.0] * 4], [[1.0] * 4, [1.0] * 4, [1.0] * 4]]
    asking = InTurn(table, 4, Random(0), piece=2)
    asking.order.shuffle = lambda pieces: None  # type: ignore[method-assign]
    combine = lambda scores: (2 * scores[0] + 2 * scores[1] + scores[2]) / 5  # noqa: E731
    found = run_race_round(asking, 2, asking.sizes, combine)
    assert asking.num_refused == 2
    assert asking.num_answered == [4, 12]
    assert found.candidates[0].value is None


def test_progress_ends_with_as_many_as_were_answered():
    shown: list[tuple[int, int]] = []
    asking = Asking([[[0.0] * 30], [[1.0] * 30]], 5, Random(0))
    run_race_round(asking, 2, asking.sizes, lambda s: s[0], on_progress=lambda done, total: shown.append((done, total)))
    assert shown[0][1] == 60
    assert shown[-1] == (35, 35)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert [total for _, total in shown] == sorted((total for _, total in shown), reverse=True)


def parts(seed: int = 0, partial: bool = False) -> list[ObjectiveTask]:
    one = NeedyTask(name="one", num_items=50, num_layers=9, seed=seed, share_known=0.8, chance_level=0.1)
    two = NeedyTask(name="two", num_items=37, num_layers=9, seed=seed, partial=partial, chance_level=0.2)
    return [ObjectiveTask(task=one, readout="short"), ObjectiveTask(task=two, readout="rank")]


def search(engine: NeedyEngine, tasks: list[ObjectiveTask], folder: RunFolder | None = None, **how: Any) -> Selection:
    with SearchJournal(folder) as journal:
        objective = TaskObjective(engine, tasks, journal=journal, **how)
        return task_accuracy(Context(num_layers=9, num_remove=4, objective=objective))


@pytest.mark.parametrize("normalise", ["raw", "chance"])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_layers_from_fewer_answers(seed, partial, normalise):
    raced, whole = NeedyEngine(num_layers=9), NeedyEngine(num_layers=9)
    found = search(raced, parts(seed, partial), normalise=normalise)
    expected = search(whole, parts(seed, partial), normalise=normalise, race="off")
    assert found.removed == expected.removed
    for key in ("value", "uncut", "selected_scores", "selection_items"):
        assert found.details[key] == expected.details[key]
    for one, other in zip(found.details["rounds"], expected.details["rounds"], strict=True):
        assert (one["chosen"], one["value"]) == (other["chosen"], other["value"])
        for value, bound, known in zip(one["values"], one["upper_bounds"], other["values"], strict=True):
            assert value in (None, known)
            assert known <= bound <= other["value"]
    assert set(raced.asked) < set(whole.asked)
    assert set(Counter(raced.asked).values()) == {1}
    race = found.details["race"]
    assert race["mode"] == "exact"
    assert race["saved"] > 0
    assert len(raced.asked) <= race["answers"] + 87  # the original model's
    assert race["answers"] + race["saved"] == (8 + 7 + 6 + 5) * 87
    assert "race" not in expected.details


def test_what_the_folder_knows_already_changes_nothing_but_the_work(tmp_path):
    alone = search(NeedyEngine(num_layers=9), parts())
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder:
        search(NeedyEngine(num_layers=9), parts(), folder, race="off")
        engine = NeedyEngine(num_layers=9)
        assert search(engine, parts(), folder) == alone
        assert not engine.asked


def test_a_metric_beyond_1_cannot_be_raced():
    class Generous(NeedyTask):
        def grade(self, *asked: Any) -> Score:
            score = super().grade(*asked)
            return score._replace(metrics={"accuracy": 2 * score.metrics["accuracy"]})

    tasks = [ObjectiveTask(task=Generous(num_items=20, num_layers=9), readout="short")]
    with pytest.raises(InputError, match="is 2.0, .*`race` off"):
        search(NeedyEngine(num_layers=9), tasks)
    assert len(search(NeedyEngine(num_layers=9), tasks, race="off").removed) == 4


@dataclass
class Wordy(NeedyTask):
    """The first word of an answer is graded, and more words follow it."""

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        request = super().request(sample, readout)
        return replace(request, max_new_tokens=9) if isinstance(request, GenerationRequest) else request

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        return super().grade(sample, readout, replace(answer, text=answer.text.split(" ")[0]))

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        return bool(text)

    def draft(self, sample: Sample, readout: Readout) -> str:
        return sample.gold


class WordyEngine(NeedyEngine):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.drafts: list[tuple[str, bool]] = []
        first = self.texts

        def text(request: GenerationRequest, plan: CutPlan) -> str:
            self.drafts.append((request.draft, plan.is_uncut))
            assert callable(first)
            return f"{first(request, plan)} and so on"

        self.texts = text


def test_answers_end_as_soon_as_their_score_is_settled_but_not_the_uncut_models(tmp_path):
    tasks = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plain = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plain[0].task.settled = lambda sample, readout, text: False  # type: ignore[method-assign]
    engine = WordyEngine(num_layers=9)
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder:
        found = search(engine, tasks, folder)
        counts = Counter((not r["key"]["removed"], r["finish_reason"]) for r in folder.records("needy", "short"))
        assert counts[True, "stop"] == 20
        assert set(counts) == {(True, "stop"), (False, "settled")}
        assert {("yes", False), ("yes", True)} == set(engine.drafts)
        assert found == search(WordyEngine(num_layers=9), plain)

        # Whoever needs whole answers asks again, and the search then takes those.
        plan = CutPlan(num_layers=9, removed=(found.removed[0],))
        with SearchJournal(folder) as journal:
            objective = TaskObjective(engine, tasks, journal=journal)
            before = objective.values([plan])
            (answered,) = objective.answers(plan, ("short",))
            assert {record["completion"].split(" ", 1)[1] for record in answered.records} == {"and so on"}
            assert objective.values([plan]) == before
        with SearchJournal(folder) as journal:
            again = WordyEngine(num_layers=9)
            objective = TaskObjective(again, tasks, journal=journal)
            assert len(objective.answers(plan, ("short",))[0].records) == 20
            assert objective.values([plan]) == before
            assert not again.asked
            assert search(again, tasks, folder) == found
            assert not again.asked


def test_whole_answers_serve_a_search(tmp_path):
    tasks = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plan = CutPlan(num_layers=9, removed=(4,))
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder, SearchJournal(folder) as journal:
        engine = WordyEngine(num_layers=9)
        objective = TaskObjective(engine, tasks, journal=journal)
        for answered in (CutPlan(num_layers=9), plan):
            objective.answers(answered, ("short",))
        num_asked = len(engine.asked)
        objective.values([plan])
        assert len(engine.asked) == num_asked
