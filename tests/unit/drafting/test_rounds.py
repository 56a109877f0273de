"""Rounds of speculative decoding, against a loop that proposes and checks token by token."""

from __future__ import annotations

import random

import pytest

from layercut.drafting.forecast import Round, expected_rounds, rounds_of


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
        assert rounds_of(agrees, window, limit) == by_hand(answer, drafted, window, limit)


def test_a_draft_that_is_always_right_writes_window_and_one_more() -> None:
    assert rounds_of([True] * 12, 3, 12) == [Round(3, 3)] * 3


def test_a_draft_that_is_never_right_writes_one_at_a_time() -> None:
    assert [one.accepted for one in rounds_of([False] * 5, 3, 5)] == [0] * 5


@pytest.mark.parametrize("accepted", [0.0, 0.6, 1.0])
def test_expected_rounds_are_the_mean_of_drawn_ones(accepted: float) -> None:
    draw = random.Random(1)
    drawn = [len(rounds_of([draw.random() < accepted for _ in range(40)], 3, 10_000)) for _ in range(2000)]
    assert expected_rounds([accepted] * 40, 3) == pytest.approx(sum(drawn) / len(drawn), rel=0.02)
