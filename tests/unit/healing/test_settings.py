from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.errors import RunMismatch
from layercut.healing.settings import HealSettings, TrainSettings, train_as_recorded
from layercut.runs.settings import CONFIG, write_config
from layercut.study.file import study_from_dict
from layercut.study.healing_arms import Healer

OLD = TrainSettings(method="full", learning_rate=2e-4)
"""As an older layercut recorded it, whose default was 2e-4 for every method."""


def rate(train: TrainSettings, out: Path, *keys: str) -> float | None:
    return train_as_recorded(train, out, *(keys or ("heal", "train"))).learning_rate


def test_a_rate_that_is_left_out_is_the_recorded_one(tmp_path: Path) -> None:
    assert rate(TrainSettings(method="full"), tmp_path) == 1e-5, "a new run"
    write_config(tmp_path, {"heal": HealSettings(train=OLD).as_dict()})
    assert rate(TrainSettings(method="full"), tmp_path) == 2e-4
    assert rate(TrainSettings(method="full", seed=3).replace(epochs=2.0), tmp_path) == 2e-4
    assert rate(TrainSettings(method="full", learning_rate=1e-5), tmp_path) == 1e-5, "what is given counts"
    assert rate(TrainSettings(method="last-k"), tmp_path) == 1e-5, "the mismatch of the method is reported later"
    (tmp_path / CONFIG).write_text((tmp_path / CONFIG).read_text().replace("0.0002", "0.0003"))
    with pytest.raises(RunMismatch, match="was changed"):
        rate(TrainSettings(method="full"), tmp_path)


def test_the_arms_of_a_study_keep_theirs(tmp_path: Path) -> None:
    arm: dict[str, Any] = {"name": "whole", "prompts": "task:copy", "limit": 3, "method": "full"}
    given = {"model": "m", "out": "runs/x", "plans": {"last": "reverse:3"}, "tasks": ["copy"]}
    old, new = (study_from_dict(given | {"healing": [one]}) for one in (arm | {"learning_rate": 2e-4}, arm))
    healer = Healer(old.healing[0], old.models[0], old.tasks, 3, folder=tmp_path, answers=tmp_path)
    write_config(tmp_path, {"healing": {"whole": healer.identity}})
    keys = ("healing", "whole", "settings", "train")
    assert new.healing[0].train.learning_rate == 1e-5
    assert rate(new.healing[0].train, tmp_path, *keys) == 2e-4
    assert rate(new.healing[0].train, tmp_path, "healing", "other", "settings", "train") == 1e-5
