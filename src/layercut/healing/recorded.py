"""Settings that were left out, as the run in a folder recorded them, so that it goes on when a default has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layercut.healing.settings import TrainSettings
from layercut.runs.settings import settings_in


def train_as_recorded(train: TrainSettings, out: Path, *keys: str) -> TrainSettings:
    """Settings of training, with the learning rate that the run in ``out`` recorded where none was given.

    The default was 2e-4 for every method before it depended on the method.

    Args:
        train: of the command or the study.
        out: run folder, which may not exist yet.
        keys: where config.yaml has the settings of training.

    Raises:
        InputError: the folder holds no readable config.yaml of layercut.
        RunMismatch: someone changed it.
    """
    if "learning_rate" in train.model_fields_set:
        return train
    recorded: Any = settings_in(out)
    for key in keys:
        recorded = recorded.get(key, {}) if isinstance(recorded, dict) else {}
    if not isinstance(recorded, dict) or recorded.get("method") != train.method or "learning_rate" not in recorded:
        return train
    return train.replace(learning_rate=recorded["learning_rate"])
