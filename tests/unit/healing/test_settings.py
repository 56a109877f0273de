"""Defaults of training that depend on other settings."""

from __future__ import annotations

import pytest

from layercut.healing.settings import METHODS, OBJECTIVES, TrainSettings, load_by_name


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-4), ("full", 1e-5), ("last-k", 1e-5)])
def test_the_learning_rate_follows_the_method(method: str, rate: float) -> None:
    assert TrainSettings(method=method).learning_rate == rate
    assert TrainSettings(method=method, learning_rate=3e-4).learning_rate == 3e-4


def test_every_row_names_code_and_settings_that_exist() -> None:
    pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    assert all(callable(load_by_name(row.made_by)) for row in METHODS.values() if row.made_by)
    assert all(callable(load_by_name(row.trainer).options) for row in OBJECTIVES.values())
    rows = (*METHODS.values(), *OBJECTIVES.values())
    assert {name for row in rows for name in row.takes} <= set(TrainSettings.model_fields)


def test_settings_of_other_rows_had_no_effect() -> None:
    lora, last = TrainSettings().in_effect(), TrainSettings(method="last-k", objective="on-policy").in_effect()
    assert set(lora) - set(last) == {"rank", "alpha", "dropout"}
    assert set(last) - set(lora) == {"last_k", "rollout_max"}
    assert (lora["beta1"], lora["beta2"]) == (0.9, 0.99)
