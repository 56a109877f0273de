"""Kinds of tokens, whose damage tells what a layer is needed for: results of sums, other digits, closing brackets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from layercut.evidence.intervals import Estimate
from layercut.evidence.means import token_mean
from layercut.selection.greedy import as_json

TokenKind = Literal["result", "other digit", "closing bracket", "other"]
KINDS: tuple[TokenKind, ...] = TokenKind.__args__  # type: ignore[attr-defined]
_RESULT = re.compile(r"=\s*(?:\\?\$)?\s*(\d[\d,.]*)")


def token_kinds(pieces: Sequence[str]) -> list[TokenKind]:
    r"""The kind of each token of a text.

    ``result``: digits of the number behind an equals sign; ``closing bracket``: ), ] or } in it.

    >>> token_kinds(["15", " +", " 2", " =", " ", "1", "7", "}"])
    ['other digit', 'other', 'other digit', 'other', 'other', 'result', 'result', 'closing bracket']

    Args:
        pieces: the tokens' texts, which together are the text.
    """
    results = [found.span(1) for found in _RESULT.finditer("".join(pieces))]
    kinds: list[TokenKind] = []
    start = 0
    for piece in pieces:
        begin, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if piece.strip()[:1].isdigit():
            is_result = any(begin < last and end > first for first, last in results)
            kinds.append("result" if is_result else "other digit")
        else:
            kinds.append("closing bracket" if set(piece) & set(")]}") else "other")
        start += len(piece)
    return kinds


class Rise(NamedTuple):
    """The rise of -ln p of one kind of token in one answer."""

    num_tokens: int
    total: float | None
    """Sum over the tokens, in nats; None for infinity."""


def rises(pieces: Sequence[str], of_tokens: Sequence[float]) -> dict[TokenKind, Rise]:
    """The rise of each kind that an answer has.

    Args:
        pieces: the tokens' texts, which together are the answer.
        of_tokens: how far -ln p of each token rises, in nats.
    """
    found: dict[TokenKind, list[float]] = {}
    for kind, rise in zip(token_kinds(pieces), of_tokens, strict=True):
        found.setdefault(kind, []).append(rise)
    return {kind: Rise(len(values), as_json(math.fsum(values))) for kind, values in found.items()}


def mean_rises(answers: Iterable[Mapping[str, Sequence[Any]]]) -> dict[TokenKind, Estimate]:
    """Mean over all tokens of each kind that any answer has, in nats a token, from the ``rises`` of each answer."""
    of_kinds: dict[TokenKind, list[Rise]] = {}
    for answer in answers:
        for kind in KINDS:
            if kind in answer:
                of_kinds.setdefault(kind, []).append(Rise(*answer[kind]))
    return {kind: _mean(of_kinds[kind]) for kind in KINDS if kind in of_kinds}


def _mean(found: Sequence[Rise]) -> Estimate:
    totals, counts = [one.total for one in found], [one.num_tokens for one in found]
    finite = [total for total in totals if total is not None]
    if len(finite) < len(totals):
        return Estimate(math.inf, None, None, sum(counts), "none")
    return token_mean(finite, counts)
