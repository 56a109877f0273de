"""Log-likelihoods of continuations, from hidden states at the positions before their tokens."""

# Shapes: N positions that are read, C of them in a chunk, M scored tokens, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.engine.base import Likelihoods
from layercut.engine.head import HeadInput, chunks, logits
from layercut.errors import InputError

if TYPE_CHECKING:
    from layercut.engine.rows import Reader, Scoring
    from layercut.models.loading import LoadedModel


OnLogits = Callable[[slice, Tensor], None]
"""Shown some of the positions, and their logits (C, V)."""


def ignored(chunk: slice, logits_CV: Tensor) -> None:
    """No observer."""


class ContinuationScore(NamedTuple):
    """One continuation's."""

    log_likelihood: float
    is_greedy: bool
    hits: tuple[bool, ...] = ()
    """For each token: it is the likeliest."""


class Sheet:
    """Which positions are read, and which tokens are scored there."""

    def __init__(self) -> None:
        self.num_positions = 0
        self._scored: list[tuple[int, int]] = []
        self._spans: list[slice] = []

    def add(self, positions: Sequence[int], continuation: Sequence[int]) -> None:
        """Have a continuation scored: token j at the place positions[j] among those that are read."""
        start = len(self._scored)
        self._scored += zip(positions, continuation, strict=True)
        self._spans.append(slice(start, len(self._scored)))
        self.num_positions = max(self.num_positions, *(place + 1 for place in positions))

    @torch.no_grad()
    def scores(
        self, loaded: LoadedModel, before: HeadInput, on_logits: OnLogits = ignored
    ) -> Iterator[ContinuationScore]:
        """ln p(continuation | context) = sum over its tokens of ln softmax(logits)[token], the softmax in float32.

        ``on_logits`` is shown the logits of each chunk of positions.
        """
        at_M, token_M = torch.tensor(self._scored).unbind(1)
        log_p_M, hit_M = torch.empty(len(at_M)), torch.empty(len(at_M), dtype=torch.bool)
        for chunk in chunks(loaded.model, self.num_positions):
            logits_CV = logits(loaded.model, before, chunk)
            on_logits(chunk, logits_CV)
            log_p_CV = log_softmax(logits_CV, dim=-1, dtype=torch.float32)
            here_M = (at_M >= chunk.start) & (at_M < chunk.stop)
            at, token = (at_M[here_M] - chunk.start).to(log_p_CV.device), token_M[here_M].to(log_p_CV.device)
            log_p_M[here_M] = log_p_CV[at, token].cpu()
            hit_M[here_M] = (log_p_CV.argmax(dim=-1)[at] == token).cpu()
        hits = [tuple(hit_M[span].tolist()) for span in self._spans]
        return (
            ContinuationScore(float(log_p_M[span].sum()), all(own), own)
            for span, own in zip(self._spans, hits, strict=True)
        )


def likelihoods(loaded: Reader, item: Scoring, scores: Sequence[ContinuationScore]) -> Likelihoods:
    """An answer from the scores of all the item's continuations, in the order of its rows.

    Raises:
        InputError: one is not a number.
    """
    firsts = [0]
    for row in item.rows:
        firsts.append(firsts[-1] + len(row.continuations))
    found = [scores[firsts[row] + place] for row, place in item.places]
    if any(math.isnan(score.log_likelihood) for score in found):
        raise InputError(
            f"request {item.id!r}: {loaded.name} computes values that are not numbers in {loaded.dtype}. "
            "Load it with another dtype, bfloat16 or float32."
        )
    return Likelihoods(
        id=item.id,
        log_likelihoods=tuple(score.log_likelihood for score in found),
        num_tokens=tuple(len(pair.continuation) for pair in item.pairs),
        is_greedy=tuple(score.is_greedy for score in found),
        num_prompt_tokens=len(item.pairs[0].context),
        hits=tuple(score.hits for score in found),
    )


def likelihoods_of(loaded: Reader, items: Sequence[Scoring], scores: Iterable[ContinuationScore]) -> list[Likelihoods]:
    """The answers from the scores of all items' continuations, one item after the other; see ``likelihoods``."""
    left = iter(scores)
    return [likelihoods(loaded, item, [next(left) for row in item.rows for _ in row.continuations]) for item in items]
