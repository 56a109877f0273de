"""Seconds of a request by what stays of the model: the parts are found from four timed plans."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.timing import CheckpointTimer
from layercut.models.loading import load_model
from layercut.progress import show_nothing
from layercut.pruning import speed
from layercut.pruning.settings import Profile
from layercut.pruning.speed import RequestTimes, measure_request_times
from layercut.surgery.width import mlp_width_in
from tests.support.tiny import save_tiny


def test_layers_and_channels_share_the_seconds_that_go() -> None:
    times = RequestTimes(num_layers=10, fixed=1.0, layer=0.1, channels=0.4)
    assert times.seconds(10) == pytest.approx(6.0)
    for removed, less in (((), 0.2), ((3,), 0.2), ((3, 5), 0.25)):
        share = times.share(removed, less)
        assert share is not None and times.seconds(10 - len(removed), 1 - share) == pytest.approx((1 - less) * 6.0)
    assert times.share((1, 2, 3), 0.1) is None, "the layers alone are more"
    assert times.share((), 0.9) is None, "the channels do not suffice"
    assert times.model_copy(update={"channels": 0.0}).share((), 0.1) is None


def measured(loaded: Any, profile: Profile) -> RequestTimes:
    timer = partial(CheckpointTimer, loaded)
    return measure_request_times(timer, loaded.num_layers, mlp_width_in(loaded.model), profile, 0, show_nothing)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_parts_are_found_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(save_tiny(name, tmp_path / name)), device="cpu")
    true, profile = RequestTimes(num_layers=loaded.num_layers, fixed=2.0, layer=0.3, channels=0.5), Profile(2, 30, 11)

    def timed(timers: Any, *_: Any) -> dict[str, Any]:
        found = {}
        for key, timer in timers.items():
            plan = timer._plan
            seconds = true.seconds(len(plan.kept), 1 - (plan.channels.share if plan.channels else 0.0))
            decode = profile.batch * (profile.new - 1) / (seconds / 2)
            found[key] = {"rounds": [{"first_token": seconds / 2, "decode": decode}] * 3}
        return found

    monkeypatch.setattr(speed, "timed_rounds", timed)
    found = measured(loaded, profile)
    assert found.model_dump() == pytest.approx(true.model_dump())


def test_a_real_model_is_timed(tmp_path: Path) -> None:
    loaded = load_model(str(save_tiny("llama", tmp_path / "tiny")), device="cpu")
    found = measured(loaded, Profile(1, 8, 8))
    assert found.seconds(loaded.num_layers) > found.seconds(1) > 0
