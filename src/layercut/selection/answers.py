"""Answers of plans to the items of a search: from the journal, or computed chunk by chunk, with or without racing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layercut.engine.base import Decoding, Engine, distinct_plans
from layercut.errors import InputError
from layercut.progress import Progress, show_nothing
from layercut.selection import racing
from layercut.selection.racing import CHUNKS_AT_ONCE, Standings, run_race_round
from layercut.selection.search_journal import JournalPart, JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import GENERATED, Sample, Split
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import Questions, ask_under_plans, share_prompt

CHUNK_SIZE = 16
"""Items of a chunk. Small, so that racing stops early; not too small, because a chunk is one call of the engine."""


Learn = Callable[[int, "CutPlan", Sequence[Mapping[str, Any]]], None]
"""Called with new records: the task's index, the plan, the records."""
ANSWERS = "answers"


@dataclass(frozen=True, kw_only=True)
class ObjectiveTask(Cell):
    """One task under one readout, as part of an objective."""

    limit: int | None = 100  # most selection items. arXiv:2602.01997 takes 100.
    split: Split = "selection"

    def __post_init__(self) -> None:
        self.task.check_readout(self.readout)


class SearchAnswers:
    """The items of some tasks, and every plan's answers to them. Tasks are named by their index in the list."""

    def __init__(
        self,
        tasks: Sequence[Cell],
        samples: Sequence[Sequence[Sample]],
        *,
        engine: Callable[[], Engine],
        model_hash: str,
        decoding: Decoding,
        journal: SearchJournal,
    ) -> None:
        """``engine`` is called when answers are asked; the seed of ``decoding`` decides the items' order."""
        self._tasks, self._engine, self._decoding, self._journal = tasks, engine, decoding, journal
        self._questions = [JournalQuestion.of(part.task, part.readout, model_hash, decoding) for part in tasks]
        self.ids = [tuple(sample.id for sample in of_task) for of_task in samples]
        self.chunks = [sample_chunks(of_task, decoding.seed) for of_task in samples]
        self.sets = _sets(tasks, samples)  # places of tasks that have the same items and share their prompts
        self.groups = _groups(tasks, self.ids, self.sets)
        """Sets that are asked together where nothing is decided between them."""

    def part(self, task: int, plan: CutPlan, *, whole: bool = False) -> JournalPart:
        """A plan's known answers to a task; with ``whole`` only those that did not end early."""
        return self._journal.part(self._questions[task], plan, self.ids[task], whole=whole)

    def items(self, task: int, chunks: Sequence[int]) -> list[Sample]:
        own = self.chunks[task]
        return [sample for chunk in chunks if chunk < len(own) for sample in own[chunk]]

    def ask(
        self,
        group: Sequence[int],
        chunks: Sequence[int],
        plans: Sequence[CutPlan],
        *,
        whole: bool,
        wanted: Callable[[CutPlan], bool] = lambda plan: True,
        learn: Learn = lambda task, plan, records: None,
    ) -> None:
        """Have the ``wanted`` plans answer some chunks of a group of tasks, in one call of the engine."""

        def questions_of(tasks: Sequence[int]) -> Questions:
            task_of = {self._tasks[task].readout: task for task in tasks}
            return Questions(
                self._tasks[tasks[0]].task,
                self.items(tasks[0], chunks),
                {readout: [self.part(task, plan, whole=whole) for plan in plans] for readout, task in task_of.items()},
                lambda plan, readout, records: learn(task_of[readout], plan, records),
            )

        ask_under_plans(
            self._engine(),
            plans,
            [questions_of(same) for same in self.sets if same[0] in group],
            decoding=self._decoding,
            early=not whole,
            wanted=lambda plan, item: wanted(plan),
        )

    def complete(
        self, tasks: Collection[int], plans: Sequence[CutPlan], *, whole: bool, progress: Progress = show_nothing
    ) -> None:
        """Have plans answer all items of some tasks, and of tasks that share prompts with them."""
        plans = distinct_plans(plans)
        tasks = [task for same in self.sets if not {*same}.isdisjoint(tasks) for task in same]
        total = len(plans) * sum(len(self.ids[task]) for task in tasks)
        done = sum(len(self.part(task, plan, whole=whole).records) for task in tasks for plan in plans)

        def learn(task: int, plan: CutPlan, records: Sequence[Mapping[str, Any]]) -> None:
            nonlocal done
            done += len(records)
            progress(ANSWERS, done, total)

        progress(ANSWERS, done, total)
        for group in self.groups:
            if own := [task for task in group if task in tasks]:
                chunks = range(max(len(self.chunks[task]) for task in own))
                for start in chunks[::CHUNKS_AT_ONCE]:
                    self.ask(own, chunks[start : start + CHUNKS_AT_ONCE], plans, whole=whole, learn=learn)


def race_plans_of_round(
    answers: SearchAnswers,
    plans: Sequence[CutPlan],
    metrics: Sequence[str],
    combine: Callable[[Sequence[float]], float],
    *,
    progress: Progress,
) -> Standings:
    """Race the plans of a round by the headlines ``metrics``; known answers count when the race reaches their chunk."""
    place_of = {plan.key: place for place, plan in enumerate(plans)}
    assert len(place_of) == len(plans), "two candidates remove the same layers"

    def metric(task: int, record: Mapping[str, Any]) -> float:
        value = float(record["metrics"][metrics[task]])
        if not 0 <= value <= 1:
            raise InputError(f"{metrics[task]} of item {record['id']} is {value}, not 0 to 1; use `race` off.")
        return value

    def ask(
        group: Sequence[int],
        chunks: Sequence[int],
        places: Sequence[int],
        wanted: Callable[[int], bool],
        learn: racing.Learn,
    ) -> None:
        running = [plans[place] for place in places]

        def learned(task: int, plan: CutPlan, records: Sequence[Mapping[str, Any]]) -> None:
            learn(task, place_of[plan.key], [metric(task, record) for record in records])

        for task in group:
            items = {sample.id for sample in answers.items(task, chunks)}
            for plan in running:
                known = answers.part(task, plan).records
                learned(task, plan, [record for record in known if record["id"] in items])
        answers.ask(group, chunks, running, whole=False, wanted=lambda plan: wanted(place_of[plan.key]), learn=learned)

    return run_race_round(
        ask,
        len(plans),
        [[len(chunk) for chunk in of_task] for of_task in answers.chunks],
        combine,
        groups=answers.sets,
        together=answers.groups,
        on_progress=lambda done, total: progress(ANSWERS, done, total),
    )


def sample_chunks(samples: Sequence[Sample], seed: int) -> list[list[Sample]]:
    """Samples in chunks by a hash of (seed, id): the first are a random draw, and an item's batch is always one."""
    order = sorted(samples, key=lambda sample: (hashlib.sha256(f"{seed}:{sample.id}".encode()).digest(), sample.id))
    return [order[start : start + CHUNK_SIZE] for start in range(0, len(order), CHUNK_SIZE)]


def _groups(
    tasks: Sequence[Cell], ids: Sequence[Sequence[str]], sets: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Tasks that are written are asked together, as far as they share no item; other sets are asked apart."""
    written: list[int] = []
    taken: set[str] = set()
    apart: list[tuple[int, ...]] = []
    for same in sets:
        if all(tasks[task].readout in GENERATED for task in same) and taken.isdisjoint(ids[same[0]]):
            written += same
            taken.update(ids[same[0]])
        else:
            apart.append(same)
    return sorted([*([tuple(written)] if written else []), *apart])


def _sets(tasks: Sequence[Cell], samples: Sequence[Sequence[Sample]]) -> list[tuple[int, ...]]:
    """Each task, with the first later one that scores the same items from the same prompts in the other way."""

    def is_same(part: Cell, other: Cell, items: Sequence[Sample], others: Sequence[Sample]) -> bool:
        return (
            (other.readout in GENERATED) != (part.readout in GENERATED)
            and other.task.name == part.task.name
            and other.task.settings() == part.task.settings()
            and [sample.id for sample in items] == [sample.id for sample in others]
            and all(share_prompt(part.task, sample, (part.readout, other.readout)) for sample in items[:1])
        )

    sets: list[tuple[int, ...]] = []
    left = list(range(len(tasks)))
    while left:
        place = left.pop(0)
        same = [other for other in left if is_same(tasks[place], tasks[other], samples[place], samples[other])][:1]
        left = [other for other in left if other not in same]
        sets.append((place, *same))
    return sets
