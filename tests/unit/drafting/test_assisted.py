"""Times of steps, by turns and in steps of the original model."""

from __future__ import annotations

import pytest

from layercut.drafting.assisted import measure_times
from layercut.engine.timing import CheckpointTimer, Timing
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


@pytest.mark.parametrize("model_type", ["llama", "mistral"])  # full attention, and windows of 8
def test_steps_of_any_plan_follow_from_the_timed_ones(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def timing(self: CheckpointTimer, batch: int, prompt: int, middle: int, seed: int) -> Timing:
        assert (batch, prompt, middle) == (1, 8, 12)
        step = 0.02 + {WHOLE.key: 0.08, HALF.key: 0.04, THIN.key: 0.05}[self._plan.key]
        return Timing(first_token=3 * step, prefill=1.0, decode=1 / step, cache_bytes=1)

    monkeypatch.setattr(CheckpointTimer, "__call__", timing)
    times = measure_times(tiny_loaded(model_type), [WHOLE, HALF, THIN], Profile(1, 8, 8), 3, 0, show_nothing)
    assert times.prompt == 8 and times.check[0] == 1 and len(times.check) == 4 and min(times.check) > 0
    assert times.step.seconds(1) == pytest.approx(1) and times.step.seconds(0.5) == pytest.approx(0.6)
    assert times.step.seconds(0.5, 0.5) == pytest.approx(0.45) and times.read.seconds(1, 0.5) == pytest.approx(2.1)
