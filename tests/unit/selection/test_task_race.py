"""Searches by task scores with and without racing: the same layers from fewer answers, and early verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import task_accuracy
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample, Score
from tests.support.search import NeedyEngine, NeedyTask

UNCUT = CutPlan(num_layers=9)


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
def test_the_same_layers_from_fewer_answers(seed: int, partial: bool, normalise: str) -> None:
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


def test_what_the_folder_knows_already_changes_nothing_but_the_work(tmp_path: Path) -> None:
    alone = search(NeedyEngine(num_layers=9), parts())
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder:
        search(NeedyEngine(num_layers=9), parts(), folder, race="off")
        engine = NeedyEngine(num_layers=9)
        assert search(engine, parts(), folder) == alone
        assert not engine.asked


def test_a_metric_beyond_1_cannot_be_raced() -> None:
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


def finishes(folder: RunFolder) -> Mapping[tuple[bool, str], int]:
    return Counter((not r["key"]["removed"], r["finish_reason"]) for r in folder.records("needy", "short"))


def test_answers_end_as_soon_as_their_score_is_settled_but_not_the_uncut_models(tmp_path: Path) -> None:
    tasks = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plain = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plain[0].task.settled = lambda sample, readout, text: False  # type: ignore[method-assign]
    engine = WordyEngine(num_layers=9)
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder:
        found = search(engine, tasks, folder)
        counts = finishes(folder)
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


def test_whole_answers_serve_a_search(tmp_path: Path) -> None:
    tasks = [ObjectiveTask(task=Wordy(num_items=20, num_layers=9), readout="short")]
    plan = CutPlan(num_layers=9, removed=(4,))
    with RunFolder.begin(tmp_path / "run", {"a": 1}) as folder, SearchJournal(folder) as journal:
        engine = WordyEngine(num_layers=9)
        objective = TaskObjective(engine, tasks, journal=journal)
        objective.answers(UNCUT, ("short",))
        objective.answers(plan, ("short",))
        num_asked = len(engine.asked)
        objective.values([plan])
        assert len(engine.asked) == num_asked


def test_sampled_answers_are_raced_too() -> None:
    decoding = Decoding(temperature=0.9, seed=4)
    found = search(NeedyEngine(num_layers=9), parts(), decoding=decoding)
    assert found.removed == search(NeedyEngine(num_layers=9), parts(), decoding=decoding, race="off").removed
