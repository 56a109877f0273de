from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.selection.answers import CHUNK_SIZE, ObjectiveTask, SearchAnswers, sample_chunks
from layercut.selection.search_journal import JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample
from tests.support.fake_engine import FakeEngine
from tests.support.search import NeedyTask

SAMPLES = [Sample(id=f"item-{number}", question="?", gold="yes") for number in range(3 * CHUNK_SIZE + 5)]


def test_every_item_is_in_one_chunk_whatever_the_order_of_the_list():
    found = sample_chunks(SAMPLES, 0)
    assert [len(chunk) for chunk in found] == [CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE, 5]
    assert sorted(sample.id for chunk in found for sample in chunk) == sorted(sample.id for sample in SAMPLES)
    assert sample_chunks(SAMPLES[::-1], 0) == found
    assert sample_chunks([], 0) == []
    # The order is random and of the seed.
    numbers = [int(sample.id.split("-")[1]) for chunk in sample_chunks(SAMPLES, 0) for sample in chunk]
    assert numbers != sorted(numbers)
    # A file that is sorted by difficulty: the first chunk must not be the easy ones.
    assert 15 < sum(numbers[:CHUNK_SIZE]) / CHUNK_SIZE < 37
    assert sample_chunks(SAMPLES, 1) != sample_chunks(SAMPLES, 0)


def answers_of(*names: tuple[str, Readout, int], engine: FakeEngine | None = None) -> SearchAnswers:
    """The first selection items of some tasks."""
    tasks = [ObjectiveTask(task=load_task(name), readout=readout, limit=limit) for name, readout, limit in names]
    samples = [part.task.samples("selection", part.limit) for part in tasks]
    given: Any = {"model_hash": "0", "decoding": Decoding(), "journal": SearchJournal()}
    return SearchAnswers(tasks, samples, engine=lambda: engine or FakeEngine(), **given)


def test_written_tasks_are_asked_together_and_others_apart():
    three: Any = (("copy", "short", 4), ("brackets", "rank", 4), ("arithmetic", "short", 4))
    both = answers_of(*three, ("arithmetic", "rank", 4))
    assert both.groups == [(0,), (1,), (2, 3)], "a prompt that is also ranked is run once for both"
    assert answers_of(*three).groups == [(0, 2), (1,)]


def test_one_call_asks_all_written_tasks_of_their_own_lengths_and_no_other_task():
    fake = FakeEngine(texts=lambda request, plan: plan.key)
    answers = answers_of(("copy", "short", 40), ("brackets", "short", 20), ("arithmetic", "short", 20), engine=fake)
    plans = [CutPlan(num_layers=6), CutPlan(num_layers=6, removed=(2,))]
    answers.complete([0, 1], plans, whole=True)
    assert len(fake.calls) == len(plans), "one call of an engine that runs one plan after the other"
    assert [len(answers.part(task, plan).records) for task in (0, 1, 2) for plan in plans] == [40, 40, 20, 20, 0, 0]
    assert {record["id"] for record in answers.part(1, plans[0]).records} == set(answers.ids[1])
    answers.complete([0, 1], plans, whole=True)
    assert len(fake.calls) == len(plans)


PLAN = CutPlan(num_layers=6, removed=(4, 2))
QUESTION = JournalQuestion.of(NeedyTask(), "short", "hash", Decoding())
IDS = ("a", "b", "c")


def record(item: str, value: float = 1.0) -> dict[str, object]:
    return {"id": item, "version": 1, "metrics": {"accuracy": value}}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.begin(tmp_path / "run", {"seed": 0})


def ids(journal: SearchJournal, question: JournalQuestion = QUESTION, plan: CutPlan = PLAN) -> list[str]:
    return [known["id"] for known in journal.part(question, plan, IDS).records]


def test_what_was_written_is_there_at_once_and_after_opening_again(folder):
    with SearchJournal(folder) as journal:
        part = journal.part(QUESTION, PLAN, IDS)
        part.append([record("b"), record("a")])
        assert not part.is_complete
        assert ids(journal) == ["a", "b"]
    with SearchJournal(folder) as journal:
        assert ids(journal) == ["a", "b"]
        journal.part(QUESTION, PLAN, IDS).append([record("c")])
        assert journal.part(QUESTION, PLAN, IDS).is_complete
    with SearchJournal(folder) as journal:
        assert journal.part(QUESTION, PLAN, IDS).is_complete


def test_a_file_is_read_once(folder, monkeypatch):
    opened: list[tuple[str, str]] = []
    real = RunFolder.journal
    monkeypatch.setattr(RunFolder, "journal", lambda self, *name: opened.append(name) or real(self, *name))
    with SearchJournal(folder) as journal:
        for layer in range(6):
            journal.part(QUESTION, CutPlan(num_layers=6, removed=(layer,)), IDS).append([record("a")])
    assert opened == [("needy", "short")]


@pytest.mark.parametrize(
    "question",
    [
        replace(QUESTION, model_hash="another"),
        replace(QUESTION, version=2),
        JournalQuestion.of(NeedyTask(seed=1), "short", "hash", Decoding()),
        JournalQuestion.of(NeedyTask(), "short", "hash", Decoding(temperature=0.9)),
        JournalQuestion.of(NeedyTask(), "rank", "hash", Decoding()),
        JournalQuestion.of(NeedyTask(name="other"), "short", "hash", Decoding()),
    ],
)
def test_other_questions_have_other_answers(folder, question):
    with SearchJournal(folder) as journal:
        journal.part(QUESTION, PLAN, IDS).append([record("a")])
        assert ids(journal, question) == []
        journal.part(question, PLAN, IDS).append([record("a", 0.0)])
    with SearchJournal(folder) as journal:
        assert journal.part(QUESTION, PLAN, IDS).records[0]["metrics"] == {"accuracy": 1.0}
        assert journal.part(question, PLAN, IDS).records[0]["metrics"] == {"accuracy": 0.0}


@pytest.mark.parametrize("kept", [True, False], ids=["in a folder", "in memory"])
def test_answers_belong_to_the_set_of_layers_and_are_given_in_the_order_asked(folder, kept):
    with SearchJournal(folder if kept else None) as journal:
        journal.part(QUESTION, PLAN, IDS).append([record("a"), record("b"), record("c")])
        assert ids(journal, plan=CutPlan(num_layers=6, removed=(2, 4))) == ["a", "b", "c"]
        assert ids(journal, plan=CutPlan(num_layers=6, removed=(2, 3))) == []
        assert ids(journal, plan=CutPlan(num_layers=6)) == []
        assert [known["id"] for known in journal.part(QUESTION, PLAN, ("c", "a")).records] == ["c", "a"]


def test_what_does_not_move_an_answer_does_not_count():
    def of(readout: str, decoding: Decoding) -> JournalQuestion:
        return JournalQuestion.of(NeedyTask(), readout, "hash", decoding)  # type: ignore[arg-type]

    assert of("short", Decoding(seed=1, top_k=5)) == of("short", Decoding())
    assert of("rank", Decoding(temperature=0.9)) == of("rank", Decoding())
    assert of("short", Decoding(temperature=0.9, seed=1)) != of("short", Decoding(temperature=0.9, seed=2))


def test_an_item_keeps_its_first_answer(folder):
    with SearchJournal(folder) as journal:
        part = journal.part(QUESTION, PLAN, IDS)
        part.append([record("a", 1.0)])
        part.append([record("a", 0.0), record("b", 0.0)])
        assert [known["metrics"]["accuracy"] for known in part.records] == [1.0, 0.0]
    assert len(folder.records("needy", "short")) == 2
    file = folder.path / "samples" / "needy.short.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text(first + first.replace("1.0", "0.0") + "".join(others))  # as after two commands at once
    with SearchJournal(folder) as journal:
        assert [known["metrics"]["accuracy"] for known in journal.part(QUESTION, PLAN, IDS).records] == [1.0, 0.0]


def test_a_torn_line_is_asked_again(folder):
    with SearchJournal(folder) as journal:
        journal.part(QUESTION, PLAN, IDS).append([record("a"), record("b")])
    file = folder.path / "samples" / "needy.short.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    with SearchJournal(folder) as journal:
        assert ids(journal) == ["a"]


def test_answers_of_an_evaluation_are_refused(folder):
    with folder.journal("needy", "short") as plain:
        plain.append([record("a")])
    with SearchJournal(folder) as journal, pytest.raises(InputError, match="written by a search"):
        journal.part(QUESTION, PLAN, IDS)


def test_an_answer_that_ended_early_serves_only_who_needs_scores(folder):
    early, whole = {**record("a"), "finish_reason": "settled"}, {**record("a"), "finish_reason": "stop"}
    with SearchJournal(folder) as journal:
        journal.part(QUESTION, PLAN, IDS).append([early])
        assert ids(journal) == ["a"]
        assert not journal.part(QUESTION, PLAN, IDS, whole=True).records
        journal.part(QUESTION, PLAN, IDS, whole=True).append([whole])
        assert journal.part(QUESTION, PLAN, IDS).records[0]["finish_reason"] == "stop"
    with SearchJournal(folder) as journal:
        for only_whole in (False, True):
            (held,) = journal.part(QUESTION, PLAN, IDS, whole=only_whole).records
            assert held["finish_reason"] == "stop"
        journal.part(QUESTION, PLAN, IDS).append([early])
    assert len(folder.records("needy", "short")) == 2
