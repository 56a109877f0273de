"""Rounds against a loop that proposes and checks token by token, and seconds of answers worked out by hand."""

from __future__ import annotations

import random

import pytest

from layercut.drafting.forecast import (
    Round,
    StepCost,
    WrittenAnswer,
    best_window,
    cost_answer,
    find_rounds,
    forecast_speedup,
)

COST = StepCost(
    check=(1.0, 1.1, 1.2, 1.3), draft=0.25, prompt=100, read=4.0, draft_read=1.0, per_token=0.05, per_round=0.5
)


def answer(prompt: int, agrees: list[bool]) -> WrittenAnswer:
    return WrittenAnswer("a", "copy", (1,) * prompt, (1,) * len(agrees), len(agrees), agrees)


RIGHT, WRONG = answer(50, [True] * 9), answer(100, [False] * 4)


def test_cost_by_hand() -> None:
    found = cost_answer(RIGHT, COST, window=2)
    assert found.plain == pytest.approx(0.5 * 4 + 8 * 1.05)
    # Three rounds of two proposals. The first is checked with the prompt, from which the draft writes a token as well.
    assert (found.rounds, found.proposed, found.accepted, found.tokens) == (3, 6, 6, 9)
    assert found.drafted == pytest.approx(0.5 * 5 + 5 * 0.25 + 2 * 1.2 + 3 * 0.5)


def test_a_draft_that_is_never_right_costs_its_steps() -> None:
    found = cost_answer(WRONG, COST, window=1)
    assert (found.rounds, found.proposed, found.accepted) == (4, 3, 0)  # nothing is proposed for the last token
    assert found.drafted > found.plain


def test_the_best_window_is_the_fastest() -> None:
    window, speedup = best_window([RIGHT], COST, 3)
    assert window == 3
    assert speedup == max(forecast_speedup([RIGHT], COST, tried, 0)["speedup"].value for tried in (1, 2, 3))
    assert best_window([WRONG], COST, 3)[0] == 1


def test_intervals_hold_the_value_and_need_answers() -> None:
    shown = forecast_speedup([RIGHT, WRONG] * 12, COST, 2, 0)
    speedup = shown["speedup"]
    assert speedup.low is not None and speedup.high is not None
    assert speedup.low < speedup.value < speedup.high
    assert (speedup.n, shown["accepted"].value) == (24, pytest.approx(6 / 11))
    assert forecast_speedup([RIGHT], COST, 2, 0)["speedup"].low is None


def by_hand(answer: list[int], drafted: list[int], window: int, limit: int) -> list[Round]:
    """The original writes ``answer``, whose last token ends it if that is 0; the draft writes ``drafted[place]``."""
    written: list[int] = []
    found = []
    while len(written) < len(answer):
        proposal: list[int] = []
        while len(proposal) < min(window, limit - len(written) - 1):
            place = len(written) + len(proposal)
            still_same = proposal == answer[len(written) : place]
            proposal.append(drafted[place] if still_same and place < len(answer) else -1)
            if proposal[-1] == 0:
                break
        accepted = 0
        while accepted < len(proposal) and proposal[accepted] == answer[len(written) + accepted]:
            accepted += 1
            if len(written) + accepted == len(answer):
                break
        accepted = min(accepted, len(answer) - len(written) - 1)
        written += answer[len(written) : len(written) + accepted + 1]
        found.append(Round(len(proposal), accepted))
    return found


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("ends", [True, False])
def test_rounds_are_those_of_the_loop(window: int, ends: bool) -> None:
    draw = random.Random(window)
    for _ in range(200):
        answer = [draw.randrange(1, 5) for _ in range(draw.randrange(1, 20))]
        limit = len(answer)
        if ends:
            answer, limit = [*answer, 0], len(answer) + draw.randrange(2, 9)
        drafted = [token if draw.random() < 0.7 else 9 for token in answer]
        agrees = [one == other for one, other in zip(answer, drafted, strict=True)]
        assert find_rounds(agrees, window, limit) == by_hand(answer, drafted, window, limit)


def test_a_draft_that_is_always_right_writes_window_and_one_more() -> None:
    assert find_rounds([True] * 12, 3, 12) == [Round(3, 3)] * 3


def test_a_draft_that_is_never_right_writes_one_at_a_time() -> None:
    assert [one.accepted for one in find_rounds([False] * 5, 3, 5)] == [0] * 5
