"""Times of steps, of plans that were timed or not, and within transformers' loops, worked out by hand."""

from __future__ import annotations

import pytest

from layercut.drafting.assisted import measure_times, times_within
from layercut.drafting.forecast import DraftSteps, MeasuredAnswer, StepTimes, TriedDraft, WrittenAnswer
from layercut.progress import show_nothing
from layercut.pruning.settings import Profile
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

WHOLE = CutPlan(num_layers=NUM_LAYERS)
HALF = CutPlan(num_layers=NUM_LAYERS, removed=(1, 2, 3))
THIN = CutPlan(
    num_layers=NUM_LAYERS,
    channels=Channels(field="intermediate_size", width=48, kept=dict.fromkeys(range(NUM_LAYERS), tuple(range(24)))),
)


def seconds(layers: float, channels: float) -> float:
    return 0.2 + layers * (0.3 + 0.5 * channels)


def made(**changes: object) -> StepTimes:
    shares = [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5)]
    drafts = tuple(
        DraftSteps(layers=one, channels=two, step=seconds(one, two), read=10 * seconds(one, two)) for one, two in shares
    )
    fields = {"where": "here", "batch": 1, "prompt": 8}
    return StepTimes.model_validate({**fields, "middle": 12, "check": (1.0, 1.1), "drafts": drafts, **changes})


def test_other_plans_follow_from_the_timed_ones() -> None:
    both = CutPlan(num_layers=NUM_LAYERS, removed=(2, 4), channels=THIN.channels)
    cost = made().cost(TriedDraft(both))
    assert cost.draft == pytest.approx(seconds(4 / 6, 0.5))
    assert cost.draft_read == pytest.approx(10 * seconds(4 / 6, 0.5))
    assert (cost.read, cost.check) == (pytest.approx(10 * seconds(1, 1)), (1.0, 1.1))


def test_a_timed_plan_has_its_own_time() -> None:
    exact = DraftSteps(layers=0.5, channels=1.0, step=7.0, read=8.0)
    assert made(drafts=(*made().drafts, exact)).cost(TriedDraft(HALF)).draft == 7.0


@pytest.mark.parametrize("model_type", ["llama", "mistral"])  # full attention, and windows of 8
def test_steps_leave_the_cache_as_it_was(model_type: str) -> None:
    loaded = tiny_loaded(model_type)
    found = measure_times(loaded, [WHOLE, HALF, THIN], Profile(2, 8, 8), 3, 0, show_nothing)
    assert (len(found.check), len(found.drafts), found.batch) == (4, 3, 2)
    assert all(one > 0 for one in (*found.check, *(two.step for two in found.drafts)))


HALVED = TriedDraft(CutPlan(num_layers=4, removed=(1, 2)), window=2)
TIMES = StepTimes(
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


def written(tokens: int, plain: list[float], checks: list[float], steps: list[float], extra: float) -> MeasuredAnswer:
    seconds, counts = (sum(plain) + extra, sum(checks) + sum(steps) + extra), (len(checks), len(steps))
    return MeasuredAnswer("a", "copy", tokens, *seconds, *counts, True, plain, checks, steps)


def asked(prompt: int) -> WrittenAnswer:
    return WrittenAnswer("a", "copy", tuple(range(prompt)), (), 9)


def test_times_are_those_of_the_answers() -> None:
    # A machine that is twice as slow as it was when steps were timed, and whose checks are relatively cheaper.
    found = [written(4, [6.0, 2.0, 2.0, 2.0], [7.0, 2.2], [3.0, 1.0, 1.0, 1.0], 0.6)]
    times = times_within(TIMES, HALVED, [asked(50)], found)
    assert times.check == pytest.approx((2.0, 1.2 * 2.2 / 1.4, 2.2))
    cost = times.cost(HALVED)
    assert (cost.read, cost.draft, cost.draft_read) == (pytest.approx(12.0), pytest.approx(1.0), pytest.approx(6.0))
    assert (cost.per_token, cost.per_round) == (pytest.approx(0.2), pytest.approx(0.3))
    # Other plans are as much slower as the original model.
    assert times.drafts[1].step == pytest.approx(1.2) and times.drafts[1].read == pytest.approx(6.0)


def test_answers_of_one_token_leave_the_ratios_as_they_were_timed() -> None:
    times = times_within(TIMES, HALVED, [asked(100)], [written(1, [8.0], [9.0], [4.0], 0.0)])
    assert times.check == pytest.approx(TIMES.check)
    cost = times.cost(HALVED)
    assert (cost.draft, cost.read, cost.draft_read) == (pytest.approx(0.6), pytest.approx(8.0), pytest.approx(4.0))
    assert (cost.per_token, cost.per_round) == (0, 0)
