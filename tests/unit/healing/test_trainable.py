"""Trainings with a teacher: stopped and resumed they are those of a run through, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.engine.handle import ModelHandle
from layercut.healing.settings import OBJECTIVES, TrainSettings
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from tests.support.healing import tiny_data, tiny_records
from tests.support.tiny import NUM_LAYERS, save_tiny

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.heal import objective_of
from layercut.healing.sft import Trained
from layercut.healing.trainable import load_for_training, load_teacher
from tests.support.training import Killed, curve_of, small_settings, train_tiny

DATA = tiny_data(16)
TAUGHT = [{"objective": name} for name, row in OBJECTIVES.items() if row.divergence]


def heal(folder: Path, name: str, wanted: TrainSettings, kill_at: int | None = None) -> Trained:
    given = {"dtype": "float32", "device": "cpu"}
    cut, teacher = (ModelHandle(ModelSettings(model=str(folder / kind), **given)) for kind in ("cut", "uncut"))
    loaded, uncut = load_for_training(cut, wanted), load_teacher(teacher, cut, TrainSettings())
    options = objective_of(loaded, uncut, wanted, DATA, tiny_records(16))
    return train_tiny(loaded.model, DATA, wanted, folder / name, kill_at, **options)


@pytest.mark.parametrize("more", [*TAUGHT, {"gradient_checkpointing": "on", "dropout": 0.0}], ids=str)
def test_stopped_and_resumed_is_run_through(more: dict[str, Any], tmp_path: Path) -> None:
    whole = ModelHandle(ModelSettings(model=str(save_tiny("llama", tmp_path / "uncut"))))
    plan = CutPlan(num_layers=NUM_LAYERS, removed=(1, 4), model_hash=whole.metadata.model_hash)
    cut_checkpoint(tmp_path / "uncut", plan, tmp_path / "cut")
    taught = {"max_steps": 3, "micro_batch": 4, "learning_rate": 1e-2, "objective": "forward-kl", "rollout_max": 8}
    wanted = small_settings(**(taught | more))
    through = heal(tmp_path, "through", wanted)
    with pytest.raises(Killed):
        heal(tmp_path, "killed", wanted, kill_at=3)
    resumed = heal(tmp_path, "killed", wanted)
    assert curve_of(resumed) == curve_of(through)
    weights = [(run.final / "adapter_model.safetensors").read_bytes() for run in (resumed, through)]
    assert weights[0] == weights[1]
    losses = [line["loss"] for line in curve_of(through) if "loss" in line]
    assert len(set(losses)) == 3 and min(losses) > 0
