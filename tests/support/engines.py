"""One kind of question under one plan, a batch at a time."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from layercut.engine.base import (
    GREEDY,
    Completion,
    Decoding,
    Divergence,
    Engine,
    GenerationRequest,
    LikelihoodRequest,
    Likelihoods,
)
from layercut.surgery.plan import CutPlan


def by_id(batches: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Answers of all batches, by request."""
    return {answer.id: answer for batch in batches for answer in batch}


def completions(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    plan: CutPlan,
    decoding: Decoding = GREEDY,
    done: Collection[str] = (),
) -> Iterator[Sequence[Completion]]:
    replies = engine.ask(requests, [plan], decoding, lambda _, name: name not in done)
    return (answers for _, answers in replies)


def log_likelihoods(
    engine: Engine, requests: Sequence[LikelihoodRequest], plan: CutPlan, done: Collection[str] = ()
) -> Iterator[Sequence[Likelihoods]]:
    replies = engine.ask(requests, [plan], wanted=lambda _, name: name not in done)
    return (scores for _, scores in replies)


def divergences(
    engine: Engine, requests: Sequence[LikelihoodRequest], plan: CutPlan, reference: CutPlan, done: Collection[str] = ()
) -> Iterator[Sequence[Divergence]]:
    compared = engine.compare(requests, [plan], reference, lambda _, name: name not in done)
    return (answers for _, answers in compared)
