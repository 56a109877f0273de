"""The tables of methods and objectives."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing.methods import METHODS, OBJECTIVES, named_in
from layercut.healing.settings import TrainSettings


def test_every_row_names_code_and_settings_that_exist() -> None:
    assert all(callable(named_in(row.made_by)) for row in METHODS.values() if row.made_by)
    assert all(callable(named_in(row.trainer).options) for row in OBJECTIVES.values())
    rows = (*METHODS.values(), *OBJECTIVES.values())
    assert {name for row in rows for name in row.takes} <= set(TrainSettings.model_fields)


def test_settings_of_other_rows_had_no_effect() -> None:
    lora, last = TrainSettings().in_effect(), TrainSettings(method="last-k", objective="on-policy").in_effect()
    assert set(lora) - set(last) == {"rank", "alpha", "dropout"}
    assert set(last) - set(lora) == {"last_k", "rollout_start", "rollout_max"}
