"""Times within transformers' loops, worked out by hand."""

from __future__ import annotations

import pytest

from layercut.drafting.agreement import WrittenAnswer
from layercut.drafting.measure import MeasuredAnswer, TimedAnswer, times_within
from layercut.drafting.search import TriedDraft
from layercut.drafting.times import DraftSteps, StepTimes
from layercut.surgery.plan import CutPlan

NUM_LAYERS = 4
HALF = CutPlan(num_layers=NUM_LAYERS, removed=(1, 2))
DRAFT = TriedDraft((1, 2), 0.0, 2, 1.0, None)
TIMES = StepTimes(
    model="m",
    model_hash="h",
    dtype="float32",
    where="here",
    batch=1,
    prompt=100,
    middle=200,
    check=(1.0, 1.2, 1.4),
    drafts=(
        DraftSteps(layers=1.0, channels=1.0, step=1.0, read=6.0),
        DraftSteps(layers=0.5, channels=1.0, step=0.6, read=3.0),
    ),
)


def written(tokens: int, plain: list[float], checks: list[float], steps: list[float], extra: float) -> TimedAnswer:
    answer = MeasuredAnswer(
        "a", "copy", tokens, sum(plain) + extra, sum(checks) + sum(steps) + extra, len(checks), len(steps), True
    )
    return TimedAnswer(answer, plain, checks, steps)


def asked(prompt: int) -> WrittenAnswer:
    return WrittenAnswer("a", "copy", tuple(range(prompt)), (), 9)


def test_times_are_those_of_the_answers() -> None:
    # A machine that is twice as slow as it was when steps were timed, and whose checks are relatively cheaper.
    found = [written(4, [6.0, 2.0, 2.0, 2.0], [7.0, 2.2], [3.0, 1.0, 1.0, 1.0], 0.6)]
    times = times_within(TIMES, HALF, DRAFT, [asked(50)], found)
    assert times.check == pytest.approx((2.0, 1.2 * 2.2 / 1.4, 2.2))
    cost = times.cost(HALF)
    assert (cost.read, cost.draft, cost.draft_read) == (pytest.approx(12.0), pytest.approx(1.0), pytest.approx(6.0))
    assert (cost.per_token, cost.per_round) == (pytest.approx(0.2), pytest.approx(0.3))
    # Other plans are as much slower as the original model.
    assert times.drafts[1].step == pytest.approx(1.2) and times.drafts[1].read == pytest.approx(6.0)


def test_answers_of_one_token_leave_the_ratios_as_they_were_timed() -> None:
    times = times_within(TIMES, HALF, DRAFT, [asked(100)], [written(1, [8.0], [9.0], [4.0], 0.0)])
    assert times.check == pytest.approx(TIMES.check)
    cost = times.cost(HALF)
    assert (cost.draft, cost.read, cost.draft_read) == (pytest.approx(0.6), pytest.approx(8.0), pytest.approx(4.0))
    assert (cost.per_token, cost.per_round) == (0, 0)
