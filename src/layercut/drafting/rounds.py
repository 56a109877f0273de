"""Rounds of speculative decoding along a known answer: what a draft would have proposed, and how much was accepted.

In greedy decoding the original model's answer is the same with any draft. The draft sees the answer's own beginning, up
to its first token that differs, so the places at which its likeliest token is the answer's next one give every round
exactly, for every window, without writing a token (Leviathan et al., arXiv:2211.17192).

>>> [tuple(one) for one in rounds_of([True, True, False, True, True], window=2, limit=8)]
[(2, 2), (2, 2)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Round(NamedTuple):
    """One pass of the original model; it writes one token more than it accepts."""

    proposed: int
    accepted: int


def rounds_of(agrees: Sequence[bool], window: int, limit: int) -> list[Round]:
    """The rounds that write an answer, as transformers' assisted generation runs them.

    Args:
        agrees: for each token of the answer: the draft's likeliest one is the same.
        window: tokens that the draft proposes, fewer in front of the limit and behind its own stop token.
        limit: the most tokens that the answer may have; the last one is always the original model's.
    """
    found = []
    place, end = 0, len(agrees)
    while place < end:
        most = min(window, max(limit - place - 1, 0))
        accepted = 0
        while accepted < most and place + accepted < end and agrees[place + accepted]:
            accepted += 1
        has_ended = accepted > 0 and place + accepted == end and end < limit
        found.append(Round(accepted if has_ended else most, min(accepted, end - place - 1)))
        place += accepted + 1
    return found


def expected_rounds(accepted: Sequence[float], window: int) -> float:
    """Rounds of speculative sampling along a drawn answer, on average.

    Args:
        accepted: for each token of the answer, the probability that a token drawn from the draft is accepted there.
    """
    begun = [1.0] + [0.0] * len(accepted)  # probability that a round begins in front of each token
    for place in range(len(accepted)):
        reached = begun[place]
        for step in range(window + 1):
            after = place + step + 1
            if after > len(accepted):
                break
            stays = accepted[place + step] if step < window else 0.0
            begun[after] += reached * (1 - stays)
            reached *= stays
    return sum(begun[:-1])
