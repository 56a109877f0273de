from __future__ import annotations

from layercut.engine.base import Decoding
from layercut.selection.answers import CHUNK_SIZE, ObjectiveTask, SearchAnswers, sample_chunks
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample
from tests.support.fake_engine import FakeEngine

SAMPLES = [Sample(id=f"item-{number}", question="?", gold="yes") for number in range(3 * CHUNK_SIZE + 5)]


def test_every_item_is_in_one_heat_whatever_the_order_of_the_list() -> None:
    found = sample_chunks(SAMPLES, 0)
    assert [len(chunk) for chunk in found] == [CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE, 5]
    assert sorted(sample.id for chunk in found for sample in chunk) == sorted(sample.id for sample in SAMPLES)
    assert sample_chunks(SAMPLES[::-1], 0) == found
    assert sample_chunks([], 0) == []


def test_the_order_is_random_and_of_the_seed() -> None:
    numbers = [int(sample.id.split("-")[1]) for chunk in sample_chunks(SAMPLES, 0) for sample in chunk]
    assert numbers != sorted(numbers)
    # A file that is sorted by difficulty: the first heat must not be the easy ones.
    assert 15 < sum(numbers[:CHUNK_SIZE]) / CHUNK_SIZE < 37
    assert sample_chunks(SAMPLES, 1) != sample_chunks(SAMPLES, 0)


def answers_of(*names: tuple[str, Readout, int], engine: FakeEngine | None = None) -> SearchAnswers:
    """The first selection items of some tasks."""
    tasks = [ObjectiveTask(task=load_task(name), readout=readout, limit=limit) for name, readout, limit in names]
    fake = engine or FakeEngine()
    return SearchAnswers(
        tasks,
        [one.task.samples("selection", one.limit) for one in tasks],
        engine=lambda: fake,
        model_hash="0",
        decoding=Decoding(),
        journal=SearchJournal(),
    )


def test_written_tasks_are_asked_together_and_others_apart() -> None:
    found = answers_of(
        ("copy", "short", 4), ("brackets", "rank", 4), ("arithmetic", "short", 4), ("arithmetic", "rank", 4)
    )
    assert found.groups == [(0,), (1,), (2, 3)], "a prompt that is also ranked is run once for both"
    found = answers_of(("copy", "short", 4), ("brackets", "rank", 4), ("arithmetic", "short", 4))
    assert found.groups == [(0, 2), (1,)]


def test_one_call_asks_all_written_tasks_of_their_own_lengths_and_no_other_task() -> None:
    fake = FakeEngine(texts=lambda request, plan: plan.key)
    answers = answers_of(("copy", "short", 40), ("brackets", "short", 20), ("arithmetic", "short", 20), engine=fake)
    plans = [CutPlan(num_layers=6), CutPlan(num_layers=6, removed=(2,))]
    answers.complete([0, 1], plans, whole=True)
    assert len(fake.calls) == len(plans), "one call of an engine that runs one plan after the other"
    assert [len(answers.part(task, plan).records) for task in (0, 1, 2) for plan in plans] == [40, 40, 20, 20, 0, 0]
    assert {record["id"] for record in answers.part(1, plans[0]).records} == set(answers.ids[1])
    answers.complete([0, 1], plans, whole=True)
    assert len(fake.calls) == len(plans)
