"""Times of steps: of plans that were not timed, and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.drafting.times import DraftSteps, StepTimes, measure_draft, measure_times
from layercut.drafting.view import draft_view
from layercut.errors import InputError
from layercut.progress import silent
from layercut.pruning.profile import Profile
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
    fields = {"model": "m", "model_hash": "h", "dtype": "float32", "where": "here", "batch": 1, "prompt": 8}
    return StepTimes.model_validate({**fields, "middle": 12, "check": (1.0, 1.1), "drafts": drafts, **changes})


def test_other_plans_follow_from_the_timed_ones() -> None:
    both = CutPlan(num_layers=NUM_LAYERS, removed=(2, 4), channels=THIN.channels)
    cost = made().cost(both)
    assert cost.draft == pytest.approx(seconds(4 / 6, 0.5))
    assert cost.draft_read == pytest.approx(10 * seconds(4 / 6, 0.5))
    assert (cost.read, cost.check) == (pytest.approx(10 * seconds(1, 1)), (1.0, 1.1))


def test_a_timed_plan_has_its_own_time() -> None:
    exact = DraftSteps(layers=0.5, channels=1.0, step=7.0, read=8.0)
    assert made(drafts=(*made().drafts, exact)).cost(HALF).draft == 7.0


def test_times_travel_in_a_file(tmp_path: Path) -> None:
    made().save(tmp_path / "times.json")
    assert StepTimes.load(tmp_path / "times.json") == made()
    (tmp_path / "other.json").write_text('{"format_version": 1}')
    for name in ("other.json", "missing.json"):
        with pytest.raises(InputError, match="times"):
            StepTimes.load(tmp_path / name)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])  # full attention, and windows of 8
def test_steps_leave_the_cache_as_it_was(model_type: str) -> None:
    loaded = tiny_loaded(model_type)
    found = measure_times(loaded, [WHOLE, HALF, THIN], Profile(2, 8, 8), 3, 0, silent)
    assert (len(found.check), len(found.drafts), found.batch) == (4, 3, 2)
    assert all(one > 0 for one in (*found.check, *(two.step for two in found.drafts)))
    view = draft_view(loaded.model, HALF)
    exact = measure_draft(loaded, view, HALF, found, 0, silent)
    assert len(exact.drafts) == 4 and exact.cost(HALF).draft == exact.drafts[-1].step
