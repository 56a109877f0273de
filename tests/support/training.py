"""Trainings of tiny models that can be killed at a step."""

from pathlib import Path
from typing import Any

from layercut.healing.examples import Data
from layercut.healing.settings import TrainSettings
from layercut.healing.sft import Trained, train_model
from layercut.healing.trainable import make_trainable
from tests.support.tiny import byte_tokenizer


class Killed(BaseException):
    pass


def small_settings(**more: Any) -> TrainSettings:
    small: dict[str, Any] = {"rank": 4, "alpha": 8, "max_steps": 4, "save_every": 2, "batch_size": 4, "micro_batch": 2}
    return TrainSettings(**(small | {"warmup_steps": 0, "learning_rate": 1e-3, "patience": 0} | more))


def train_tiny(
    model: Any, data: Data, settings: TrainSettings, folder: Path, kill_at: int | None = None, **options: Any
) -> Trained:
    def on_progress(done: int, total: int) -> None:
        if done == kill_at:
            raise Killed

    model = make_trainable(model, settings)
    return train_model(model, byte_tokenizer(), data, settings, folder, on_progress=on_progress, **options)


def curve_of(trained: Trained) -> list[dict[str, float]]:
    """The loss curve without its seconds."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in trained.curve]
