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
from layercut.engine.stack import HeadInput, Stack, logits, position_chunks
from layercut.engine.text_groups import PackedText, num_common
from layercut.errors import InputError

if TYPE_CHECKING:
    from layercut.engine.rows import LikelihoodRow, Reader, Scoring, Tokens
    from layercut.engine.shared_depth import Leaf
    from layercut.models.loading import LoadedModel


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
    """ln p(continuation | context) = sum over its tokens of ln softmax(logits)[token], the softmax in float32.

    ``on_logits`` is shown the logits of each chunk of positions.
    """
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


def refuse_nan(loaded: Reader, request_id: str, is_nan: bool) -> None:
    """Raise InputError where values of a request are not numbers."""
    if is_nan:
        raise InputError(
            f"request {request_id!r}: {loaded.name} computes values that are not numbers in {loaded.dtype}. "
            "Load it with another dtype, bfloat16 or float32."
        )


def likelihoods_of(loaded: Reader, items: Sequence[Scoring], scores: Iterable[ContinuationScore]) -> list[Likelihoods]:
    """The answers from the scores of all continuations: item after item, row after row.

    Raises:
        InputError: one is not a number.
    """
    left, answers = iter(scores), []
    for item in items:
        by_row = [[next(left) for _ in row.continuations] for row in item.rows]
        own = [by_row[row][place] for row, place in item.places]
        refuse_nan(loaded, item.id, any(math.isnan(score.log_likelihood) for score in own))
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

    The options of a multiple-choice item thus share one pass over their context and over the words they begin with, and
    a position that several continuations are read off is read once. Neighbours of which most is the same are one text
    together: items that come behind the same worked examples share the pass over these.
    """

    def __init__(
        self, block: Sequence[Scoring | None], num_prefix: int, lines: Sequence[Sequence[Tokens]] | None = None
    ) -> None:
        """Lay out the texts of what is scored; None where a text is there for the sake of its lines alone.

        Args:
            num_prefix: tokens that all rows share and that are no part of a text.
            lines: per text, more lines, without the prefix. They come first: token j of the first of them is token j of
                the text.
        """
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
        """Input of the head at the N positions that are read."""
        starts = leaf.pack.starts
        return stack.leave(leaf.states_1TD[0, [starts[self._text_of[index]] + place for index, place in self._read]])

    def read_at(self, index: int, place: int) -> int | None:
        """Which of the N positions a token of an entry's text is, if it is read for this entry at all."""
        return self._read.get((index, place))

    def scores(
        self, loaded: LoadedModel, before: HeadInput, on_logits: OnLogits = lambda chunk, logits_CV: None
    ) -> list[Likelihoods]:
        """Each request's, from what the head is given at the positions; ``on_logits`` as in ``score_spans``.

        Raises:
            InputError: scores that are not numbers.
        """
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
    """Entries of a block, those that share a text together."""
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
    same = num_common(left, right)
    return same >= SHORTEST_KIN and 2 * same >= max(len(left), len(right))
