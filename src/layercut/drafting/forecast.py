"""Forecast of a draft's speed-up: rounds that are known exactly, times that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from layercut.drafting.times import StepCost
from layercut.evidence.intervals import Array, Estimate
from layercut.evidence.paired import sums_ratio


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


class Drafted(NamedTuple):
    """One answer of the original model, and where a draft agrees with it."""

    prompt: int  # tokens of the prompt
    agrees: Sequence[bool]
    limit: int  # tokens that the answer may have at most


class DraftForecast(NamedTuple):
    """One plan and window on some answers."""

    speedup: Estimate  # seconds of all answers without a draft over those with it
    per_round: Estimate  # tokens written in a round
    accepted: Estimate  # share of the proposed tokens


class AnswerCost(NamedTuple):
    """Seconds of one answer, as ``StepCost`` counts them."""

    plain: float
    drafted: float
    tokens: int
    rounds: int
    proposed: int
    accepted: int


def cost_of(answer: Drafted, cost: StepCost, window: int, prompt: int) -> AnswerCost:
    """Seconds of one answer without a draft and with it; times to read were measured on ``prompt`` tokens."""
    rounds = rounds_of(answer.agrees, window, answer.limit)
    share, tokens = answer.prompt / prompt, len(answer.agrees)
    proposed = sum(one.proposed for one in rounds)
    checked = sum(cost.check[one.proposed] for one in rounds)
    # Reading the prompt gives the first token, of the draft as well. The first round is checked in the same pass.
    plain = share * cost.read + (tokens - 1) * (cost.check[0] + cost.per_token)
    drafted = share * (cost.read + cost.draft_read) + max(proposed - 1, 0) * cost.draft
    drafted += checked - cost.check[rounds[0].proposed]
    return AnswerCost(
        plain,
        drafted + len(rounds) * cost.per_round,
        tokens,
        len(rounds),
        proposed,
        sum(one.accepted for one in rounds),
    )


def speedup(answers: Sequence[Drafted], cost: StepCost, window: int, prompt: int) -> float:
    """The speed-up of all answers together."""
    found = [cost_of(answer, cost, window, prompt) for answer in answers]
    return sum(one.plain for one in found) / sum(one.drafted for one in found)


def best_window(answers: Sequence[Drafted], cost: StepCost, most: int, prompt: int) -> tuple[int, float]:
    """The window from 1 to ``most`` with the highest speed-up, and that; of equals the shorter one."""
    found = {window: speedup(answers, cost, window, prompt) for window in range(1, most + 1)}
    window = max(found, key=lambda one: (found[one], -one))
    return window, found[window]


def forecast(answers: Sequence[Drafted], cost: StepCost, window: int, prompt: int, seed: int) -> DraftForecast:
    """With 95 % intervals over answers."""
    found = [cost_of(answer, cost, window, prompt) for answer in answers]
    columns = {name: np.array([getattr(one, name) for one in found], dtype=np.float64) for name in AnswerCost._fields}

    def ratio(above: str, below: str) -> Estimate:
        return sums_ratio(columns[above], columns[below], seed)

    return DraftForecast(ratio("plain", "drafted"), ratio("tokens", "rounds"), ratio("accepted", "proposed"))


def drawn_speedup(overlaps: Sequence[Sequence[float]], cost: StepCost, window: int, seed: int) -> Estimate:
    """The speed-up of decoding where tokens are drawn at temperature 1 (arXiv:2211.17192), prompts left out.

    Args:
        overlaps: of each answer, at each token, the sum of the smaller of both probabilities.
    """
    plain: Array = np.array([len(one) * (cost.check[0] + cost.per_token) for one in overlaps])
    each = window * cost.draft + cost.check[window] + cost.per_round
    drafted: Array = np.array([expected_rounds(one, window) * each for one in overlaps])
    return sums_ratio(plain, drafted, seed)
