"""Task x engine x plan -> one record per item, and metrics with intervals.

Records are appended batch by batch, so a stopped run resumes where it stopped and ends with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layercut.engine.base import (
    Completion,
    Decoding,
    Engine,
    GenerationRequest,
    LikelihoodRequest,
    Likelihoods,
    Request,
    Wanted,
    always,
)
from layercut.errors import InputError, RunMismatch
from layercut.evidence.clusters import clusters_of
from layercut.evidence.intervals import mean_interval
from layercut.evidence.program_classes import CLASS
from layercut.tasks import repeats
from layercut.tasks.base import (
    GENERATED,
    Asking,
    Readout,
    Sample,
    Score,
    Split,
    Task,
    generates,
)
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.runs.records import MetricRow
    from layercut.surgery.plan import CutPlan


class Records(Protocol):
    """The store of answers: a Journal, or one plan's part of a search's journal."""

    @property
    def records(self) -> Sequence[dict[str, Any]]: ...

    @property
    def path(self) -> Path: ...

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: safe when this returns."""


class InMemory:
    """Records in memory."""

    path = Path("memory")

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records.extend(dict(record) for record in records)


OnAnswers = Callable[["CutPlan", Readout, Sequence[Mapping[str, Any]]], None]  # called with a plan's new records


@dataclass(frozen=True)
class Questions:
    """Samples of a task, to be asked under many plans."""

    task: Task
    samples: Sequence[Sample]  # which ones share a call may decide which share a batch, so keep to fixed groups
    journals: Mapping[Readout, Sequence[Records]]
    """Per readout, one per plan: one readout, or one that generates and one that scores. New records are there before
    ``on_answers`` hears of them."""
    on_answers: OnAnswers = lambda plan, readout, records: None  # called with a plan, a readout, and its new records


_OUTCOMES = ("right", "wrong", "no_answer", "cut")
_FINISHES = ("stop", "length")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of one task and readout under one plan."""

    metrics: list[MetricRow]
    """A row per metric, the headline first."""
    records: list[dict[str, Any]]
    """A record per item, in the order of the task's samples."""


def evaluate(
    task: Task,
    engine: Engine,
    plan: CutPlan,
    *,
    readout: Readout | None = None,
    split: Split = "report",
    limit: int | None = None,
    decoding: Decoding | None = None,
    num_samples: int = 1,
    journal: Records | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Ask a task's samples of the model under a plan and grade the answers.

    Args:
        readout: how answers are read; the task's first one if left out.
        split: ``report`` items for results, ``full`` for the whole test set of a task whose selection items are part
            of it, ``selection`` items for choosing layers.
        decoding: how tokens are drawn, greedy if left out; ``rank`` draws none.
        num_samples: answers to each item, for what is generated; see ``layercut.tasks.repeats``.
        journal: records that are there already, and where new ones go. Items that it holds are not asked again.
        on_progress: called with (items done, items in all), first with what the journal held.

    Raises:
        InputError: a readout that the task does not have, no samples, or requests that the engine refuses.
        RunMismatch: the journal holds another version of the task, or items that are not asked here.
    """
    readout = readout or task.readouts[0]
    task.check_readout(readout)
    decoding = decoding or Decoding()
    samples = task.samples(split, limit)
    if not samples:
        raise InputError(f"{task.name} has no {split} items{'' if limit is None else f' within a limit of {limit}'}.")
    held = InMemory() if journal is None else journal
    known = _checked(held, task, {sample.id for sample in samples})
    report_progress = on_progress or (lambda done, total: None)
    report_progress(known, len(samples))

    def answered(plan: CutPlan, readout: Readout, fresh: Sequence[Mapping[str, Any]]) -> None:
        nonlocal known
        known += len(fresh)
        report_progress(known, len(samples))

    asked = Asking(
        task=task,
        engine=engine,
        plan=plan,
        samples=samples,
        readout=readout,
        records=held.records,
        decoding=decoding,
    )
    if generates(readout) and num_samples != 1:
        repeats.check_samples(num_samples, decoding)
        for fresh in _repeated(asked, num_samples):
            held.append(fresh)
            answered(plan, readout, fresh)
    else:
        questions = Questions(task, samples, {readout: [held]}, answered)
        ask_under(engine, [plan], [questions], decoding=decoding, early=False)
    records = {record["id"]: record for record in held.records}
    ordered = [records[sample.id] for sample in samples]
    chance = task.split_chance(split, readout)
    rows = _rows(task, readout, ordered, chance, decoding.seed, limit)
    if split != "selection" and task.test_set_size is not None:
        for row in rows:
            row["split"], row["test_set"] = split if task.shares_test_set else "full", task.test_set_size
    if over_items := task.over_items(samples, readout, ordered):
        rows[0]["over_items"] = over_items
    return TaskResult(metrics=rows, records=ordered)


def ask_under(
    engine: Engine,
    plans: Sequence[CutPlan],
    questions: Sequence[Questions],
    *,
    decoding: Decoding,
    early: bool,
    wanted: Wanted = always,
) -> None:
    """Ask the model under many plans, in one call of the engine, and put graded answers into journals.

    What a journal holds is not asked again. All plans and samples go to the engine all the same: its batches must be
    those of a run that was never stopped.

    Args:
        plans: which layers are gone, each set of layers once.
        questions: of one task or of several, whose samples have no id in common.
        early: let an answer end as soon as its score is settled. The scores are the same; the texts are not whole, and
            their finish reason is ``settled``.
        wanted: whether a plan's answer to an item is still wanted; asked again and again.

    Raises:
        InputError: requests that the engine refuses.
    """
    names = ", ".join(one.task.name for one in questions)
    place_of = {sample.id: place for place, one in enumerate(questions) for sample in one.samples}
    sample_of = {sample.id: sample for one in questions for sample in one.samples}
    assert len(place_of) == sum(len(one.samples) for one in questions), f"{names}: two samples with one id"
    number_of = {plan.key: number for number, plan in enumerate(plans)}
    assert len(number_of) == len(plans), "two plans that remove the same layers"
    known = {
        (place, readout, plan.key): {record["id"] for record in journal.records}
        for place, one in enumerate(questions)
        for readout, journals in one.journals.items()
        for plan, journal in zip(plans, journals, strict=True)
    }
    readout_of = {(place, readout in GENERATED): readout for place, readout, _ in known}
    assert len(readout_of) * len(plans) == len(known), "two readouts of one kind, whose answers cannot be distinguished"

    def asked(plan: CutPlan, item: str) -> bool:
        place = place_of[item]
        return any(item not in known[place, one, plan.key] for one in questions[place].journals) and wanted(plan, item)

    missing = [(plan, item) for plan in plans for item in place_of if asked(plan, item)]
    if not missing:
        return
    requests = [
        _request(one.task, sample, readout, early=early)
        for one in questions
        for readout in one.journals
        for sample in one.samples
    ]
    for plan, answers in engine.ask(requests, plans, decoding, asked):
        for place in dict.fromkeys(place_of[answer.id] for answer in answers):
            one, readout = questions[place], readout_of[place, isinstance(answers[0], Completion)]
            ids = known[place, readout, plan.key]
            new = [answer for answer in answers if place_of[answer.id] == place and answer.id not in ids]
            fresh = _records(one.task, readout, [(sample_of[answer.id], answer) for answer in new])
            one.journals[readout][number_of[plan.key]].append(fresh)
            ids.update(record["id"] for record in fresh)
            one.on_answers(plan, readout, fresh)
    left = sum(asked(plan, item) for plan, item in missing)
    assert not left, f"the engine left {left} requests of {names} unanswered"


def share_prompt(task: Task, sample: Sample, readouts: Collection[Readout]) -> bool:
    """True if readouts of an item ask the very same prompt, so that one pass over it can serve them all."""
    requests = [task.request(sample, readout) for readout in readouts]
    each = any(isinstance(request, LikelihoodRequest) and request.prompts for request in requests)
    return not each and all(request.prompt == requests[0].prompt for request in requests)


def _checked(journal: Records, task: Task, ids: Collection[str]) -> int:
    """The number of records that the journal holds, which must be answers to these items and this version."""
    for record in journal.records:
        if record.get("version") != task.version:
            raise RunMismatch(
                f"{journal.path} holds answers to version {record.get('version')} of {task.name}, this is version "
                f"{task.version}. Scores of different versions cannot be mixed; use another `out`."
            )
        if record.get("id") not in ids:
            raise RunMismatch(
                f"{journal.path} holds the item {record.get('id')}, which is not among the "
                f"{counted(len(ids), 'item')} of "
                f"{task.name} here. Use the seed, limit and data that it was begun with, or another `out`."
            )
    return len(journal.records)


def _request(task: Task, sample: Sample, readout: Readout, *, early: bool) -> Request:
    """The request, with the task's draft and early verdict."""
    request = task.request(sample, readout)
    assert isinstance(request, GenerationRequest) == (readout in GENERATED), f"{task.name}: {readout} is of this kind"
    if isinstance(request, LikelihoodRequest):
        return request
    return replace(
        request,
        group=task.name,
        draft=task.draft(sample, readout),
        settled=partial(task.settled, sample, readout) if early else None,
    )


def _repeated(asked: Asking, num_samples: int) -> Iterator[list[dict[str, Any]]]:
    """New records of items that are answered several times, a batch at a time."""
    for items in repeats.answers(asked, num_samples):
        scores = asked.task.grade_all(
            [item.sample for item in items for _ in item.answers],
            asked.readout,
            [answer for item in items for answer in item.answers],
        )
        fresh = []
        for place, item in enumerate(items):
            own = scores[place * num_samples : (place + 1) * num_samples]
            first = _record(asked.task, asked.readout, item.sample, item.answers[0], own[0])
            fresh.append(repeats.merged(first, own, item))
        yield fresh


def _records(
    task: Task, readout: Readout, answered: Sequence[tuple[Sample, Completion | Likelihoods]]
) -> list[dict[str, Any]]:
    """Graded answers; all at once where a task can, as those that run programs do."""
    scores = task.grade_all([sample for sample, _ in answered], readout, [answer for _, answer in answered])
    return [
        _record(task, readout, sample, answer, score) for (sample, answer), score in zip(answered, scores, strict=True)
    ]


def _record(
    task: Task, readout: Readout, sample: Sample, answer: Completion | Likelihoods, score: Score
) -> dict[str, Any]:
    """One line of samples/<task>.<readout>.jsonl."""
    record: dict[str, Any] = {
        "id": sample.id,
        "version": task.version,
        "question": sample.question,
        "gold": sample.gold,
        "answer": score.answer,
        "outcome": score.outcome,
        "metrics": score.metrics,
    }
    if score.program:
        record[CLASS] = score.program
    if (cluster := sample.data.get("cluster")) is not None:
        record["cluster"] = str(cluster)
    if isinstance(answer, Completion):
        record |= {
            "completion": answer.text,
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": answer.num_new_tokens,
        }
        return record | ({"num_close": answer.num_close} if answer.num_close else {})
    return record | {
        "options": [sample.gold] if readout == "gold" or not sample.options else list(sample.options),
        "log_likelihoods": list(answer.log_likelihoods),
        "num_tokens": list(answer.num_tokens),
        "num_prompt_tokens": answer.num_prompt_tokens,
    }


def _rows(
    task: Task,
    readout: Readout,
    records: Sequence[Mapping[str, Any]],
    chance: Mapping[str, float],
    seed: int,
    limit: int | None,
) -> list[MetricRow]:
    outcomes = Counter(record["outcome"] for record in records)
    finishes = Counter(record["finish_reason"] for record in records) if generates(readout) else None
    rows: list[MetricRow] = []
    for metric in records[0]["metrics"]:
        estimate = mean_interval([record["metrics"][metric] for record in records], clusters=clusters_of(records))
        rows.append(
            {
                "task": task.name,
                "version": task.version,
                "readout": readout,
                "metric": metric,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "chance": chance.get(metric),
                "method": estimate.method,
                "seed": seed,
                "outcomes": {name: outcomes[name] for name in _OUTCOMES},
                "finish": None if finishes is None else {name: finishes[name] for name in _FINISHES},
                "limit": limit,
            }
        )
    return rows
