"""Defaults of training that depend on other settings."""

from __future__ import annotations

import pytest

from layercut.healing.settings import TrainSettings


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-4), ("full", 1e-5), ("last-k", 1e-5)])
def test_the_learning_rate_follows_the_method(method: str, rate: float) -> None:
    assert TrainSettings(method=method).learning_rate == rate
    assert TrainSettings(method=method, learning_rate=3e-4).learning_rate == 3e-4
