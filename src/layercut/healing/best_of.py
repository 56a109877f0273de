"""Best of n: choose one of several answers to a prompt as training data. All answers and the choice are recorded.

Right answers come before wrong ones, where a task's grader judged them. Finished answers come before those at the
length limit. Among the rest, the answer with the highest mean token likelihood under its own model wins. (Likelihood
alone would prefer endless repetition.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.base import Engine, LikelihoodRequest, Likelihoods
from layercut.healing.prompts import record_prompt
from layercut.progress import OnProgress
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan

Record = Mapping[str, Any]


def choose(
    engine: Engine, plan: CutPlan, records: Sequence[Record], journal: Journal, *, on_progress: OnProgress | None = None
) -> None:
    """Choose one answer for every prompt that the journal holds no choice for yet.

    ``engine`` and ``plan`` are the model that answered; ``records`` are all records of ``generate_responses``. The
    journal gets a line for each prompt: ``id``, ``chosen`` (a record's id) and, where likelihood decided,
    ``mean_log_likelihoods`` (in nats per token, by record).
    """
    of_prompt: dict[str, list[Record]] = {}
    for record in records:
        of_prompt.setdefault(record["prompt_id"], []).append(record)
    best = {name: contenders(answers) for name, answers in of_prompt.items()}
    done = {choice["id"] for choice in journal.records}
    journal.append([_choice(name, some) for name, some in best.items() if len(some) == 1 and name not in done])
    done |= {choice["id"] for choice in journal.records}
    to_score = [
        LikelihoodRequest(
            id=name, prompt=record_prompt(some[0]), continuations=tuple(record["completion"] for record in some)
        )
        for name, some in best.items()
        if len(some) > 1
    ]
    for batch in engine.log_likelihoods(to_score, plan, done=frozenset(done)):
        fresh = [scores for scores in batch if scores.id not in done]
        journal.append([_choice(scores.id, best[scores.id], scores) for scores in fresh])
        done |= {scores.id for scores in fresh}
        if on_progress:
            on_progress(len(done), len(best))


def contenders(answers: Sequence[Record]) -> list[Record]:
    """The answers to one prompt with the best grade and ending, each text once."""

    def quality(record: Record) -> tuple[bool, bool, bool]:
        return bool(record["completion"].strip()), record.get("right", False), record["finish_reason"] != "length"

    best = max(map(quality, answers))
    by_text: dict[str, Record] = {}
    for record in answers:
        if quality(record) == best:
            by_text.setdefault(record["completion"], record)
    return list(by_text.values()) if best[0] else [answers[0]]


def chosen(records: Sequence[Record], choices: Sequence[Record]) -> list[dict[str, Any]]:
    """The chosen records in the prompts' order, under the prompts' ids."""
    by_id = {record["id"]: record for record in records}
    picked = {choice["id"]: by_id[choice["chosen"]] for choice in choices}
    order = dict.fromkeys(record["prompt_id"] for record in records)
    return [{**picked[name], "id": name} for name in order]


def _choice(name: str, some: Sequence[Record], scores: Likelihoods | None = None) -> dict[str, Any]:
    """The line of a choice; of equals, the first is chosen."""
    if scores is None:
        return {"id": name, "chosen": some[0]["id"]}
    means = [total / count for total, count in zip(scores.log_likelihoods, scores.num_tokens, strict=True)]
    best = some[means.index(max(means))]["id"]
    by_record = {record["id"]: mean for record, mean in zip(some, means, strict=True)}
    return {"id": name, "chosen": best, "mean_log_likelihoods": by_record}
