"""Seconds of answers with and without a draft, worked out by hand."""

from __future__ import annotations

import pytest

from layercut.drafting.forecast import Drafted, best_window, cost_of, drawn_speedup, forecast
from layercut.drafting.times import StepCost

COST = StepCost(check=(1.0, 1.1, 1.2, 1.3), draft=0.25, read=4.0, draft_read=1.0, per_token=0.05, per_round=0.5)
RIGHT = Drafted(prompt=50, agrees=[True] * 9, limit=9)
WRONG = Drafted(prompt=100, agrees=[False] * 4, limit=4)


def test_cost_by_hand() -> None:
    found = cost_of(RIGHT, COST, window=2, prompt=100)
    assert found.plain == pytest.approx(0.5 * 4 + 8 * 1.05)
    # Three rounds of two proposals. The first is checked with the prompt, from which the draft writes a token as well.
    assert (found.rounds, found.proposed, found.accepted, found.tokens) == (3, 6, 6, 9)
    assert found.drafted == pytest.approx(0.5 * 5 + 5 * 0.25 + 2 * 1.2 + 3 * 0.5)


def test_a_draft_that_is_never_right_costs_its_steps() -> None:
    found = cost_of(WRONG, COST, window=1, prompt=100)
    assert (found.rounds, found.proposed, found.accepted) == (4, 3, 0)  # nothing is proposed for the last token
    assert found.drafted > found.plain


def test_the_best_window_is_the_fastest() -> None:
    window, speedup = best_window([RIGHT], COST, 3, 100)
    assert window == 3
    assert speedup == max(forecast([RIGHT], COST, one, 100, 0).speedup.value for one in (1, 2, 3))
    assert best_window([WRONG], COST, 3, 100)[0] == 1


def test_intervals_hold_the_value_and_need_answers() -> None:
    answers = [RIGHT, WRONG] * 12
    found = forecast(answers, COST, 2, 100, 0)
    assert found.speedup.low is not None and found.speedup.high is not None
    assert found.speedup.low < found.speedup.value < found.speedup.high
    assert (found.speedup.n, found.accepted.value) == (24, pytest.approx(6 / 11))
    assert forecast([RIGHT], COST, 2, 100, 0).speedup.low is None


def test_drawn_tokens_that_are_always_accepted() -> None:
    found = drawn_speedup([[1.0] * 9], COST, 2, 0)
    assert found.value == pytest.approx(9 * 1.05 / (3 * (2 * 0.25 + 1.2 + 0.5)))
