"""Several answers to each item, and pass@k: the chance that at least one of k is right.

Every answer of an item is sampled with its own noise, the first one with that of a single answer. A record holds all of
them; its metrics are the mean over the answers (pass@1) under the metric's own name, and ``pass@k`` for k = 2, 4, 8 and
so on, by which answers are right. Outcome, answer and text of the record are those of the first answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from layercut.engine.base import Completion, Decoding, GenerationRequest
from layercut.errors import InputError
from layercut.evidence.intervals import pass_at_k
from layercut.tasks.base import Asking, Sample, Score

_MARK = " draw "


class ItemAnswers(NamedTuple):
    """All answers to one item, the first one first."""

    sample: Sample
    answers: tuple[Completion, ...]


def check_samples(num_samples: int, decoding: Decoding) -> None:
    """Refuse what would not give different answers.

    Raises:
        InputError: less than one answer, or several by greedy decoding.
    """
    if num_samples < 1:
        raise InputError(f"{num_samples} answers to each item cannot be drawn; use 1 or more.")
    if num_samples > 1 and decoding.is_greedy:
        raise InputError(
            f"{num_samples} answers to each item are all the same with greedy decoding; set a temperature, such as 0.8."
        )


def answers(asked: Asking, num_samples: int) -> Iterator[list[ItemAnswers]]:
    """All answers to each item that is not known, as they are complete.

    Raises:
        InputError: requests that the engine refuses.
    """
    known = {record["id"] for record in asked.records}
    open_ones: dict[str, dict[int, Completion]] = {sample.id: {} for sample in asked.samples if sample.id not in known}
    by_id = {sample.id: sample for sample in asked.samples}
    requests = []
    for sample in asked.samples:
        request = asked.task.request(sample, asked.readout)
        assert isinstance(request, GenerationRequest), "only what is generated is drawn several times"
        requests += [replace(request, id=_name(sample.id, draw)) for draw in range(num_samples)]
    done = {_name(item, draw) for item in known for draw in range(num_samples)}
    replies = asked.engine.ask(requests, [asked.plan], asked.decoding, lambda _, name: name not in done)
    for _, found in replies:
        complete = []
        for one in found:
            item, _, draw = one.id.partition(_MARK)
            if item not in open_ones:
                continue
            drawn = open_ones[item]
            drawn[int(draw or 0)] = one
            if len(drawn) == num_samples:
                complete.append(ItemAnswers(by_id[item], tuple(drawn[place] for place in range(num_samples))))
                del open_ones[item]
        if complete:
            yield complete


def merged(record: Mapping[str, Any], scores: Sequence[Score], drawn: ItemAnswers) -> dict[str, Any]:
    """The record of the first answer with the metrics of all of them, and the others beside it."""
    others = [
        {
            "completion": answer.text,
            "finish_reason": answer.finish_reason,
            "answer": score.answer,
            "outcome": score.outcome,
            "metrics": score.metrics,
        }
        for answer, score in zip(drawn.answers[1:], scores[1:], strict=True)
    ]
    tokens = sum(answer.num_new_tokens for answer in drawn.answers)
    return {
        **record,
        "metrics": metrics_of(scores),
        "num_new_tokens": tokens,
        "first": scores[0].metrics,
        "further": others,
    }


def metrics_of(scores: Sequence[Score]) -> dict[str, float]:
    """One item's metrics from the grades of its answers: means, then pass@k, by which answers are ``right``.

    >>> metrics_of([Score({"pass": 1.0}, "", "right"), *[Score({"pass": 0.0}, "", "wrong")] * 3])
    {'pass': 0.25, 'pass@2': 0.5, 'pass@4': 1.0}
    """
    n = len(scores)
    means = {name: sum(score.metrics[name] for score in scores) / n for name in scores[0].metrics}
    right = sum(score.outcome == "right" for score in scores)
    ks = [2**power for power in range(1, n.bit_length())]
    return means | {f"pass@{k}": pass_at_k(n, right, k) for k in ks}


def _name(item: str, draw: int) -> str:
    return f"{item}{_MARK}{draw}" if draw else item
