"""Log-likelihoods of continuations, and their divergence from a reference plan's, from hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.engine.base import Divergence, Likelihoods, TokenDamage
from layercut.engine.rows import LikelihoodRow, Reader, Scoring, Tokens, decode_tokens
from layercut.engine.stack import HeadInput, Leaf, Stack, logits, position_chunks
from layercut.engine.text_groups import PackedText, count_common_tokens
from layercut.errors import InputError
from layercut.models.loading import LoadedModel

# Shapes: N positions that are read, C of them in a chunk, M scored tokens, V vocabulary.


OnLogits = Callable[[slice, Tensor], None]  # shown some of the positions, and their logits (C, V)
SHORTEST_KIN = 32  # tokens that two requests must have in common to share a text
LARGEST_TREE = 8192
"""Tokens of the rows of one text, what is shared counted in each: its attention grows with the square."""


class ContinuationScore(NamedTuple):
    """One continuation's."""

    log_likelihood: float
    is_greedy: bool
    hits: tuple[bool, ...] = ()  # for each token: it is the likeliest


Spans = list[tuple[Sequence[int], Sequence[int]]]
"""Continuations to score: token j of one is scored at the j-th of its places among the positions that are read."""


@torch.no_grad()
def score_spans(
    loaded: LoadedModel, before: HeadInput, spans: Spans, on_logits: OnLogits = lambda chunk, logits_CV: None
) -> Iterator[ContinuationScore]:
    """ln p(continuation | context) = sum over its tokens of ln softmax(logits)[token], the softmax in float32."""
    at_M = torch.tensor([place for places, _ in spans for place in places])
    token_M = torch.tensor([token for _, continuation in spans for token in continuation])
    log_p_M, hit_M = torch.empty(len(at_M)), torch.empty(len(at_M), dtype=torch.bool)
    for chunk in position_chunks(loaded.model, len(before.states_ND)):
        logits_CV = logits(loaded.model, before, chunk)
        on_logits(chunk, logits_CV)
        log_p_CV = log_softmax(logits_CV, dim=-1, dtype=torch.float32)
        here_M = (at_M >= chunk.start) & (at_M < chunk.stop)
        at, token = (at_M[here_M] - chunk.start).to(log_p_CV.device), token_M[here_M].to(log_p_CV.device)
        log_p_M[here_M] = log_p_CV[at, token].cpu()
        hit_M[here_M] = (log_p_CV.argmax(dim=-1)[at] == token).cpu()
    lengths = [len(continuation) for _, continuation in spans]
    for log_ps, own_hits in zip(log_p_M.split_with_sizes(lengths), hit_M.split_with_sizes(lengths), strict=True):
        hits = tuple(own_hits.tolist())
        yield ContinuationScore(float(log_ps.sum()), all(hits), hits)


def refuse_nan_values(loaded: Reader, request_id: str, is_nan: bool) -> None:
    """Raise InputError where values of a request are not numbers."""
    if is_nan:
        raise InputError(
            f"request {request_id!r}: {loaded.name} computes no numbers in {loaded.dtype}; load another dtype."
        )


def likelihoods_of(loaded: Reader, items: Sequence[Scoring], scores: Iterable[ContinuationScore]) -> list[Likelihoods]:
    """The answers from the scores of all continuations, row after row. Raises InputError: one is not a number."""
    left, answers = iter(scores), []
    for item in items:
        by_row = [[next(left) for _ in row.continuations] for row in item.rows]
        own = [by_row[row][place] for row, place in item.places]
        refuse_nan_values(loaded, item.id, any(math.isnan(score.log_likelihood) for score in own))
        log_likelihoods, is_greedy, hits = zip(*own, strict=True)
        answers.append(
            Likelihoods(
                id=item.id,
                log_likelihoods=log_likelihoods,
                num_tokens=tuple(len(pair.continuation) for pair in item.pairs),
                is_greedy=is_greedy,
                num_prompt_tokens=len(item.pairs[0].context),
                hits=hits,
            )
        )
    return answers


class Reading:
    """Each request is one text: a tree of its rows, so that what they have in common is computed once.

    Options share one pass over their context; neighbours of which most is the same are one text together.
    """

    def __init__(
        self, block: Sequence[Scoring | None], num_prefix: int, lines: Sequence[Sequence[Tokens]] | None = None
    ) -> None:
        """Texts behind ``num_prefix`` shared tokens; ``lines``, per text, come first, and None has these alone."""
        self.block = [item for item in block if item is not None]
        self.num_prefix = num_prefix
        self.texts: list[PackedText] = []
        self._spans: Spans = []  # the continuations of all rows of all requests in order
        self._read: dict[tuple[int, int], int] = {}  # entry of the block and place in its text, of each position
        self._text_of: list[int] = []  # per entry of the block, the text that it is in
        parts = [[index] for index in range(len(block))] if lines is not None else _kindred(block, num_prefix)
        for members in parts:
            first = [] if lines is None else list(lines[members[0]])
            rows = [(index, row) for index in members for row in _rows(block[index])]
            text, lanes = PackedText.tree([*first, *(row.tokens[num_prefix:] for _, row in rows)])
            self._text_of += [len(self.texts)] * len(members)
            self.texts.append(text)
            for (index, row), lane in zip(rows, lanes[len(first) :], strict=True):
                places = [self._read.setdefault((index, place), len(self._read)) for place in lane[-row.num_scored :]]
                self._spans += [(places, continuation) for continuation in row.continuations]

    def head_input(self, stack: Stack, leaf: Leaf) -> HeadInput:
        starts = leaf.pack.starts
        return stack.leave(leaf.states_1TD[0, [starts[self._text_of[index]] + place for index, place in self._read]])

    def read_at(self, index: int, place: int) -> int | None:
        """Which of the N positions a token of an entry's text is, if it is read for this entry at all."""
        return self._read.get((index, place))

    def scores(
        self, loaded: LoadedModel, before: HeadInput, on_logits: OnLogits = lambda chunk, logits_CV: None
    ) -> list[Likelihoods]:
        return likelihoods_of(loaded, self.block, score_spans(loaded, before, self._spans, on_logits))


def group_neighbours(work: Sequence[Scoring]) -> list[Scoring]:
    """The requests in their order, but those of which most is the same behind one another."""
    kin: list[list[Scoring]] = []
    for item in sorted(work, key=lambda item: (item.rows[0].tokens, item.id)):
        if not kin or not _most_is_same(kin[-1][-1], item, 0):
            kin.append([])
        kin[-1].append(item)
    place = {item.id: number for number, item in enumerate(work)}
    kin.sort(key=lambda items: min(place[item.id] for item in items))
    return [item for items in kin for item in items]


def _kindred(block: Sequence[Scoring | None], num_prefix: int) -> list[list[int]]:
    parts: list[list[int]] = []
    room = 0
    for index, item in enumerate(block):
        before = block[index - 1] if index else None
        size = sum(len(row.tokens) - num_prefix for row in _rows(item))
        if not (item is not None and before is not None and size <= room and _most_is_same(before, item, num_prefix)):
            parts.append([])
            room = LARGEST_TREE
        parts[-1].append(index)
        room -= size
    return parts


def _rows(item: Scoring | None) -> Sequence[LikelihoodRow]:
    return () if item is None else item.rows


def _most_is_same(first: Scoring, second: Scoring, num_prefix: int) -> bool:
    left, right = (item.rows[0].tokens[num_prefix:] for item in (first, second))
    same = count_common_tokens(left, right)
    return same >= SHORTEST_KIN and 2 * same >= max(len(left), len(right))


# Shapes: B batch, T tokens, V vocabulary, N scored positions, C of them in a chunk.


class TokenDivergence(NamedTuple):
    """One value per position, (N,) float32 in nats."""

    nll: Tensor
    reference_nll: Tensor
    kl: Tensor


class Reference(NamedTuple):
    """Next-token distributions of the reference, and what every comparison with them needs."""

    logits_NV: Tensor
    p_NV: Tensor  # log-probabilities, float32
    weight_NV: Tensor  # probabilities
    ruled_out_NV: Tensor | None  # tokens without any probability; None where no token is ruled out

    @classmethod
    @torch.no_grad()
    def of(cls, logits_NV: Tensor) -> Reference:
        p_NV = log_softmax(logits_NV, dim=-1, dtype=torch.float32)
        ruled_out_NV = p_NV.isneginf()
        ruled_out = ruled_out_NV if bool(ruled_out_NV.any()) else None
        return cls(logits_NV, p_NV, p_NV.exp(), ruled_out)


@torch.no_grad()
def token_choice(reference: Reference, plan_NV: Tensor, token_N: Tensor) -> Tensor:
    """(4, N) int64: ranks of the next token under plan and reference, by strictly likelier ones; both likeliest."""
    both = (plan_NV, reference.logits_NV)
    ranks = [1 + (logits_NV > logits_NV.gather(1, token_N.unsqueeze(1))).sum(dim=-1) for logits_NV in both]
    return torch.stack([*ranks, *(logits_NV.argmax(dim=-1) for logits_NV in both)])


@torch.no_grad()
def token_divergence(reference: Reference, plan_NV: Tensor, token_N: Tensor) -> TokenDivergence:
    """Compare position by position, in float32: KL(p || q) = sum over v of p_v ln(p_v / q_v), p the reference's."""
    q_NV = log_softmax(plan_NV, dim=-1, dtype=torch.float32)
    token_N1 = token_N.unsqueeze(1)
    kl_NV = (reference.p_NV - q_NV).mul_(reference.weight_NV)
    if reference.ruled_out_NV is not None:  # ln p = -inf; it adds nothing
        kl_NV = kl_NV.masked_fill_(reference.ruled_out_NV, 0.0)
    return TokenDivergence(
        nll=-q_NV.gather(1, token_N1).squeeze(1),
        reference_nll=-reference.p_NV.gather(1, token_N1).squeeze(1),
        kl=kl_NV.sum(dim=-1).clamp_min(0),  # below 0 it is rounding
    )


@torch.no_grad()
def divergences_between(
    loaded: LoadedModel, items: Sequence[Scoring], before: HeadInput, plans: Sequence[HeadInput]
) -> list[list[Divergence]]:
    """Compare states at the N positions under a reference (``before``) and some plans, chunk by chunk."""
    model = loaded.model
    token_N = torch.tensor([token for item in items for token in item.rows[0].continuations[0]])
    by_token = any(item.request.by_token for item in items)
    parts: list[list[Tensor]] = [[] for _ in plans]
    choices: list[list[Tensor]] = [[] for _ in plans]
    for chunk in position_chunks(model, len(token_N)):
        reference = Reference.of(logits(model, before, chunk))
        token_C = token_N[chunk].to(reference.logits_NV.device)
        for place, after in enumerate(plans):
            plan_CV = logits(model, after, chunk)
            parts[place].append(torch.stack(token_divergence(reference, plan_CV, token_C)).cpu())
            if by_token:
                choices[place].append(token_choice(reference, plan_CV, token_C).cpu())
    lengths = [item.rows[0].num_scored for item in items]
    results = []
    for values, chosen in zip(parts, choices, strict=True):
        own_values = torch.cat(values, dim=1).double().split_with_sizes(lengths, dim=1)
        answers = [_summed(loaded, item, values_3T) for item, values_3T in zip(items, own_values, strict=True)]
        if by_token:
            own_choices = torch.cat(chosen, dim=1).split_with_sizes(lengths, dim=1)
            for place, item in enumerate(items):
                if item.request.by_token:
                    damage = _token_damage(loaded, item, own_values[place], own_choices[place])
                    answers[place] = replace(answers[place], tokens=damage)
        results.append(answers)
    return results


def _token_damage(loaded: LoadedModel, item: Scoring, values_3T: Tensor, choice_4T: Tensor) -> tuple[TokenDamage, ...]:
    tokenizer, continuation, shown = loaded.tokenizer, item.rows[0].continuations[0], ""
    tokens = []
    values = zip(*values_3T.tolist(), *choice_4T.tolist(), strict=True)
    for index, (nll, reference_nll, kl, rank, reference_rank, *likeliest) in enumerate(values):
        # Decoded from the beginning, because a token may hold a part of a character, and be glued to the one before.
        text = decode_tokens(tokenizer, continuation[: index + 1]).rstrip("\ufffd")
        added, shown = text[len(shown) :], max(shown, text, key=len)
        texts = [decode_tokens(tokenizer, [token]) for token in likeliest]
        tokens.append(TokenDamage(added, nll, reference_nll, kl, rank, reference_rank, *texts))
    return tuple(tokens)


def _summed(loaded: LoadedModel, item: Scoring, values_3T: Tensor) -> Divergence:
    # Each row is summed in float64, in its own order, whatever shares the batch or the chunk.
    nll, reference_nll, kl = values_3T.sum(dim=1).tolist()
    refuse_nan_values(loaded, item.id, bool(values_3T.isnan().any()))
    return Divergence(id=item.id, num_tokens=item.rows[0].num_scored, nll=nll, reference_nll=reference_nll, kl=kl)
