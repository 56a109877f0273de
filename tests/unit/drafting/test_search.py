"""Rounds against a loop that proposes and checks token by token; seconds of answers by hand; steps that are timed."""

from __future__ import annotations

import random

import pytest

from layercut.drafting.assisted import measure_times
from layercut.drafting.search import StepTimes, TriedDraft, WrittenAnswer, best_window, find_rounds, forecast_seconds
from layercut.engine.timing import CheckpointTimer, Timing
from layercut.progress import show_nothing
from layercut.pruning.settings import Profile
from layercut.pruning.speed import TimeParts
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

TIMES = StepTimes(
    prompt=100,
    check=(1.0, 1.1, 1.2, 1.3),
    step=TimeParts(fixed=0.05, layer=0.4, channels=0.55),
    read=TimeParts(fixed=0.0, layer=2.0, channels=2.0),
)
HALF = TriedDraft(CutPlan(num_layers=4, removed=(1, 2)))  # a step takes 0.525, the prompt 2


def answer(prompt: int, agrees: list[bool]) -> WrittenAnswer:
    return WrittenAnswer("a", "copy", (1,) * prompt, (1,) * len(agrees), len(agrees), agrees)


RIGHT, WRONG = answer(50, [True] * 9), answer(100, [False] * 4)


def test_seconds_by_hand():
    plain, drafted = forecast_seconds(RIGHT, HALF, 2, TIMES)
    assert plain == pytest.approx(0.5 * 4 + 8 * 1.0)
    # Three rounds of two proposals. The first is checked with the prompt, from which the draft writes a token as well.
    assert drafted == pytest.approx(0.5 * (4 + 2) + 5 * 0.525 + 2 * 1.2)


def test_a_draft_that_is_never_right_costs_its_steps():
    plain, drafted = forecast_seconds(WRONG, HALF, 1, TIMES)
    assert plain == pytest.approx(4 + 3)
    assert drafted == pytest.approx(4 + 2 + 2 * 0.525 + 2 * 1.1 + 1.0)  # nothing is proposed for the last token


def test_the_best_window_is_the_fastest():
    window, speedup = best_window([RIGHT, WRONG], HALF, 3, TIMES)
    by_window = {}
    for tried in (1, 2, 3):
        seconds = [forecast_seconds(text, HALF, tried, TIMES) for text in (RIGHT, WRONG)]
        by_window[tried] = sum(plain for plain, _ in seconds) / sum(drafted for _, drafted in seconds)
    assert speedup == pytest.approx(max(by_window.values())) and by_window[window] == max(by_window.values())
    assert best_window([RIGHT], HALF, 3, TIMES)[0] == 3 and best_window([WRONG], HALF, 3, TIMES)[0] == 1


def by_hand(answer: list[int], drafted: list[int], window: int, limit: int) -> list[int]:
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
        found.append(len(proposal))
    return found


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("ends", [True, False])
def test_rounds_are_those_of_the_loop(window, ends):
    draw = random.Random(window)
    for _ in range(200):
        answer = [draw.randrange(1, 5) for _ in range(draw.randrange(1, 20))]
        limit = len(answer)
        if ends:
            answer, limit = [*answer, 0], len(answer) + draw.randrange(2, 9)
        drafted = [token if draw.random() < 0.7 else 9 for token in answer]
        agrees = [one == other for one, other in zip(answer, drafted, strict=True)]
        assert find_rounds(agrees, window, limit) == by_hand(answer, drafted, window, limit)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])  # full attention, and windows of 8
def test_steps_of_any_plan_follow_from_the_timed_ones(model_type, monkeypatch):
    kept = dict.fromkeys(range(NUM_LAYERS), tuple(range(24)))
    channels = Channels(field="intermediate_size", width=48, kept=kept)
    whole, half = CutPlan(num_layers=NUM_LAYERS), CutPlan(num_layers=NUM_LAYERS, removed=(1, 2, 3))
    thin = CutPlan(num_layers=NUM_LAYERS, channels=channels)

    def timing(self: CheckpointTimer, batch: int, prompt: int, middle: int, seed: int) -> Timing:
        assert (batch, prompt, middle) == (1, 8, 12)
        step = 0.02 + {whole.key: 0.08, half.key: 0.04, thin.key: 0.05}[self._plan.key]
        return Timing(first_token=3 * step, prefill=1.0, decode=1 / step, cache_bytes=1)

    monkeypatch.setattr(CheckpointTimer, "__call__", timing)
    times = measure_times(tiny_loaded(model_type), [whole, half, thin], Profile(1, 8, 8), 3, 0, show_nothing)
    assert times.prompt == 8 and times.check[0] == 1 and len(times.check) == 4 and min(times.check) > 0
    assert times.step.seconds(1) == pytest.approx(1) and times.step.seconds(0.5) == pytest.approx(0.6)
    assert times.step.seconds(0.5, 0.5) == pytest.approx(0.45) and times.read.seconds(1, 0.5) == pytest.approx(2.1)
