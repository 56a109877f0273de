"""Ask a task's items of a model under plans: one record per item, and metrics with intervals.

Records are appended batch by batch, so a stopped run resumes where it stopped and ends with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from layercut.engine.base import (
    Completion,
    Decoding,
    Engine,
    GenerationRequest,
    LikelihoodRequest,
    Likelihoods,
    Request,
    Wanted,
    always_wanted,
)
from layercut.errors import InputError, RunMismatch
from layercut.evidence.intervals import clusters_of, mean_interval, pass_at_k
from layercut.evidence.program_classes import CLASS
from layercut.runs.records import MetricRow
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import GENERATED, Readout, Sample, Score, Split, Task, is_generated
from layercut.text import count_of

_OUTCOMES = ("right", "wrong", "no_answer", "cut")
_FINISHES = ("stop", "length")
_DRAW = " draw "  # between an item and the number of its further answer, in the id of a request


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
    on_answers: OnAnswers = lambda plan, readout, records: None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of one task and readout under one plan."""

    metrics: list[MetricRow]
    """A row per metric, the headline first."""
    records: list[dict[str, Any]]
    """A record per item, in the order of the task's samples."""


def evaluate_items(
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
        num_samples: answers to each item, for what is generated. The metrics are then the mean over the answers
            (pass@1) under their own names, and ``pass@k`` for k = 2, 4, 8 ...
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
    journal = InMemory() if journal is None else journal
    _check_records(journal, task, {sample.id for sample in samples})
    num_done = len(journal.records)

    def report_progress(plan: CutPlan, readout: Readout, fresh: Sequence[Mapping[str, Any]]) -> None:
        nonlocal num_done
        num_done += len(fresh)
        if on_progress:
            on_progress(num_done, len(samples))

    report_progress(plan, readout, [])
    questions = Questions(task, samples, {readout: [journal]}, report_progress)
    if is_generated(readout) and num_samples != 1:
        _ask_repeatedly(engine, plan, questions, decoding, num_samples)
    else:
        ask_under_plans(engine, [plan], [questions], decoding=decoding, early=False)
    by_id = {record["id"]: record for record in journal.records}
    records = [by_id[sample.id] for sample in samples]
    rows = _metric_rows(task, readout, records, task.split_chance(split, readout), decoding.seed, limit)
    if split != "selection" and task.test_set_size is not None:
        for row in rows:
            row["split"], row["test_set"] = split if task.shares_test_set else "full", task.test_set_size
    return TaskResult(metrics=rows, records=records)


def ask_under_plans(
    engine: Engine,
    plans: Sequence[CutPlan],
    questions: Sequence[Questions],
    *,
    decoding: Decoding,
    early: bool,
    wanted: Wanted = always_wanted,
) -> None:
    """Ask the model under many plans, in one call of the engine, and put graded answers into journals.

    What a journal holds is not asked again. All plans and samples go to the engine all the same: its batches must be
    those of a run that was never stopped.

    Args:
        questions: of one task or of several, whose samples have no id in common.
        early: let an answer end as soon as its score is settled. The scores are the same; the texts are not whole, and
            their finish reason is ``settled``.
        wanted: whether a plan's answer to an item is still wanted; asked again and again.
    """
    names = ", ".join(part.task.name for part in questions)
    place_of = {sample.id: place for place, part in enumerate(questions) for sample in part.samples}
    sample_of = {sample.id: sample for part in questions for sample in part.samples}
    assert len(place_of) == sum(len(part.samples) for part in questions), f"{names}: two samples with one id"
    plan_numbers = {plan.key: number for number, plan in enumerate(plans)}
    assert len(plan_numbers) == len(plans), "two plans that remove the same layers"
    known = {
        (place, readout, plan.key): {record["id"] for record in journal.records}
        for place, part in enumerate(questions)
        for readout, journals in part.journals.items()
        for plan, journal in zip(plans, journals, strict=True)
    }
    readout_of = {(place, readout in GENERATED): readout for place, readout, _ in known}
    assert len(readout_of) * len(plans) == len(known), "two readouts of one kind, whose answers cannot be distinguished"

    def is_open(plan: CutPlan, item: str) -> bool:
        place = place_of[item]
        lacking = any(item not in known[place, readout, plan.key] for readout in questions[place].journals)
        return lacking and wanted(plan, item)

    missing = [(plan, item) for plan in plans for item in place_of if is_open(plan, item)]
    if not missing:
        return
    requests = [
        _request(part.task, sample, readout, early=early)
        for part in questions
        for readout in part.journals
        for sample in part.samples
    ]
    for plan, answers in engine.ask(requests, plans, decoding, is_open):
        for place in dict.fromkeys(place_of[answer.id] for answer in answers):
            part, readout = questions[place], readout_of[place, isinstance(answers[0], Completion)]
            ids = known[place, readout, plan.key]
            new = [answer for answer in answers if place_of[answer.id] == place and answer.id not in ids]
            samples = [sample_of[answer.id] for answer in new]
            # All at once, because a task that runs programs runs them side by side.
            scores = part.task.grade_all(samples, readout, new)
            fresh = [
                _record(part.task, readout, sample, answer, score, has_tokens=plan.is_uncut)
                for sample, answer, score in zip(samples, new, scores, strict=True)
            ]
            part.journals[readout][plan_numbers[plan.key]].append(fresh)
            ids.update(record["id"] for record in fresh)
            part.on_answers(plan, readout, fresh)
    num_left = sum(is_open(plan, item) for plan, item in missing)
    assert not num_left, f"the engine left {num_left} requests of {names} unanswered"


def share_prompt(task: Task, sample: Sample, readouts: Collection[Readout]) -> bool:
    """True if readouts of an item ask the very same prompt, so that one pass over it can serve them all."""
    requests = [task.request(sample, readout) for readout in readouts]
    have_several = any(isinstance(request, LikelihoodRequest) and request.prompts for request in requests)
    return not have_several and all(request.prompt == requests[0].prompt for request in requests)


def _ask_repeatedly(engine: Engine, plan: CutPlan, questions: Questions, decoding: Decoding, num_samples: int) -> None:
    """Several answers to each item, each with its own noise, the first with that of a single answer.

    An item's record is written when all of its answers are there.
    """
    if num_samples < 1:
        raise InputError(f"{num_samples} answers to each item cannot be drawn; use 1 or more.")
    if decoding.is_greedy:
        raise InputError(f"{num_samples} answers are all the same with greedy decoding; set a temperature.")
    ((readout, (journal,)),) = questions.journals.items()
    draws = {
        sample.id: [sample.id, *(f"{sample.id}{_DRAW}{draw}" for draw in range(1, num_samples))]
        for sample in questions.samples
    }
    samples = [replace(sample, id=draw) for sample in questions.samples for draw in draws[sample.id]]
    answers = InMemory()
    answers.append([{"id": draw} for record in journal.records for draw in draws[record["id"]]])
    drawn: dict[str, Mapping[str, Any]] = {}

    def keep_complete_items(plan: CutPlan, readout: Readout, records: Sequence[Mapping[str, Any]]) -> None:
        drawn.update((record["id"], record) for record in records)
        items = dict.fromkeys(record["id"].partition(_DRAW)[0] for record in records)
        fresh = [
            _merged([drawn.pop(draw) for draw in draws[item]])
            for item in items
            if all(draw in drawn for draw in draws[item])
        ]
        if fresh:
            journal.append(fresh)
            questions.on_answers(plan, readout, fresh)

    repeated = Questions(questions.task, samples, {readout: [answers]}, keep_complete_items)
    ask_under_plans(engine, [plan], [repeated], decoding=decoding, early=False)


def _merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One item's record: the first answer's, with the means of all metrics, then pass@k, and the other answers."""
    first, n = records[0], len(records)
    means = {name: sum(record["metrics"][name] for record in records) / n for name in first["metrics"]}
    num_right = sum(record["outcome"] == "right" for record in records)
    ks = [2**power for power in range(1, n.bit_length())]
    shown = ("completion", "finish_reason", "answer", "outcome", "metrics")
    return {
        **{name: value for name, value in first.items() if name != "tokens"},
        "metrics": means | {f"pass@{k}": pass_at_k(n, num_right, k) for k in ks},
        "num_new_tokens": sum(record["num_new_tokens"] for record in records),
        "first": first["metrics"],
        "further": [{name: record[name] for name in shown} for record in records[1:]],
    }


def _check_records(journal: Records, task: Task, ids: Collection[str]) -> None:
    """Refuse records that are no answers to these items and this version."""
    for record in journal.records:
        if record.get("version") != task.version:
            versions = f"version {record.get('version')} of {task.name}, this is version {task.version}"
            raise RunMismatch(f"{journal.path} holds answers to {versions}; use another `out`.")
        if record.get("id") not in ids:
            here = f"not among the {count_of(len(ids), 'item')} of {task.name} here"
            raise RunMismatch(f"{journal.path} holds the item {record.get('id')}, {here}. Use another `out`.")


def _request(task: Task, sample: Sample, readout: Readout, *, early: bool) -> Request:
    """The request, with the task's draft and early verdict."""
    request = task.request(sample, readout)
    assert isinstance(request, GenerationRequest) == (readout in GENERATED), f"{task.name}: {readout} is of this kind"
    if isinstance(request, LikelihoodRequest):
        return request
    settled = partial(task.settled, sample, readout) if early else None
    return replace(request, group=task.name, draft=task.draft(sample, readout), settled=settled)


def _record(
    task: Task,
    readout: Readout,
    sample: Sample,
    answer: Completion | Likelihoods,
    score: Score,
    *,
    has_tokens: bool = False,
) -> dict[str, Any]:
    """One line of samples/<task>.<readout>.jsonl, with the tokens of an answer where a vocabulary may need them."""
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
        return record | ({"tokens": list(answer.tokens)} if has_tokens and answer.tokens else {})
    return record | {
        "options": list(sample.options) or [sample.gold],
        "log_likelihoods": list(answer.log_likelihoods),
        "num_tokens": list(answer.num_tokens),
        "num_prompt_tokens": answer.num_prompt_tokens,
    }


def _metric_rows(
    task: Task,
    readout: Readout,
    records: Sequence[Mapping[str, Any]],
    chance: Mapping[str, float],
    seed: int,
    limit: int | None,
) -> list[MetricRow]:
    outcomes = Counter(record["outcome"] for record in records)
    finishes = Counter(record["finish_reason"] for record in records) if is_generated(readout) else None
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
