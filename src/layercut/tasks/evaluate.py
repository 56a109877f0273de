"""Task x engine x plan -> one record per item, and metrics with intervals.

Records are appended batch by batch, so that work that was stopped goes on where it was, and ends with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import InputError, RunMismatch, unknown
from layercut.evidence.clusters import clusters_of
from layercut.evidence.intervals import mean_interval
from layercut.tasks.base import GENERATED, Readout, Sample, Score, Split, Task

if TYPE_CHECKING:
    from layercut.runs.records import Journal, MetricRow
    from layercut.surgery.plan import CutPlan

_OUTCOMES = ("right", "wrong", "no_answer", "cut")
_FINISHES = ("stop", "length")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task and readout gave under one plan."""

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
    journal: Journal | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Ask a task's samples of the model under a plan and grade the answers.

    Args:
        task: what is asked.
        engine: who answers.
        plan: which layers are gone.
        readout: how answers are read; the task's first one if left out.
        split: ``report`` items for results, ``selection`` items for choosing layers.
        limit: only the first so many samples.
        decoding: how tokens are drawn, greedy if left out; ``rank`` draws none.
        journal: records that are there already, and where new ones go. Items that it holds are not asked again.
        on_progress: called with (items done, items in all), first with what the journal held.

    Raises:
        InputError: a readout that the task does not have, no samples, or requests that the engine refuses.
        RunMismatch: the journal holds another version of the task, or items that are not asked here.
    """
    readout = readout or task.readouts[0]
    if readout not in task.readouts:
        raise unknown(f"readout of {task.name}", readout, task.readouts)
    decoding = decoding or Decoding()
    samples = task.samples(split, limit)
    if not samples:
        raise InputError(f"{task.name} has no {split} items{'' if limit is None else f' within a limit of {limit}'}.")
    by_id = {sample.id: sample for sample in samples}
    assert len(by_id) == len(samples), f"{task.name}: two samples with one id"

    records = {} if journal is None else _known(journal, task, by_id)
    report_progress = on_progress or (lambda done, total: None)
    report_progress(len(records), len(samples))
    if len(records) < len(samples):
        for answers in _ask(task, engine, plan, readout, samples, decoding, done=frozenset(records)):
            fresh = [_record(task, readout, by_id[answer.id], answer) for answer in answers if answer.id not in records]
            if journal is not None:
                journal.append(fresh)
            records |= {record["id"]: record for record in fresh}
            report_progress(len(records), len(samples))
    missing = [sample.id for sample in samples if sample.id not in records]
    assert not missing, f"the engine left {len(missing)} requests of {task.name} unanswered"

    ordered = [records[sample.id] for sample in samples]
    chance = task.chance(samples, readout)
    return TaskResult(metrics=_rows(task, readout, ordered, chance, decoding.seed, limit), records=ordered)


def _known(journal: Journal, task: Task, by_id: Mapping[str, Sample]) -> dict[str, dict[str, Any]]:
    """The journal's records by id, checked."""
    for record in journal.records:
        if record.get("version") != task.version:
            raise RunMismatch(
                f"{journal.path} holds answers to version {record.get('version')} of {task.name}, this is version "
                f"{task.version}. Scores of different versions cannot be mixed; use another --out."
            )
        if record.get("id") not in by_id:
            raise RunMismatch(
                f"{journal.path} holds the item {record.get('id')}, which is not among the {len(by_id)} items of "
                f"{task.name} here. Use the seed, limit and data that it was begun with, or another --out."
            )
    return {record["id"]: record for record in journal.records}


def _ask(
    task: Task,
    engine: Engine,
    plan: CutPlan,
    readout: Readout,
    samples: Sequence[Sample],
    decoding: Decoding,
    done: frozenset[str],
) -> Iterator[Sequence[Completion | Likelihoods]]:
    # All requests go to the engine, the done ones too: its batches must be those of a run that was never stopped.
    requests = [task.request(sample, readout) for sample in samples]
    if readout in GENERATED:
        to_generate = [request for request in requests if isinstance(request, GenerationRequest)]
        assert len(to_generate) == len(requests), f"{task.name}: {readout} must generate"
        yield from engine.completions(to_generate, plan, decoding, done)
    else:
        to_score = [request for request in requests if isinstance(request, LikelihoodRequest)]
        assert len(to_score) == len(requests), f"{task.name}: {readout} must not generate"
        yield from engine.log_likelihoods(to_score, plan, done)


def _record(task: Task, readout: Readout, sample: Sample, answer: Completion | Likelihoods) -> dict[str, Any]:
    """One line of samples/<task>.<readout>.jsonl."""
    score: Score = task.grade(sample, readout, answer)
    record: dict[str, Any] = {
        "id": sample.id,
        "version": task.version,
        "question": sample.question,
        "gold": sample.gold,
        "answer": score.answer,
        "outcome": score.outcome,
        "metrics": score.metrics,
    }
    if (cluster := sample.data.get("cluster")) is not None:
        record["cluster"] = str(cluster)
    if isinstance(answer, Completion):
        return record | {
            "completion": answer.text,
            "finish_reason": answer.finish_reason,
            "num_prompt_tokens": answer.num_prompt_tokens,
            "num_new_tokens": answer.num_new_tokens,
        }
    return record | {
        "options": list(sample.options),
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
    finishes = Counter(record["finish_reason"] for record in records) if readout in GENERATED else None
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
