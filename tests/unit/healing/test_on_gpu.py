"""Training on a GPU with less memory than AdamW on float32 weights; skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.healing.settings import TrainSettings
from tests.support.healing import tiny_data
from tests.support.tiny import CONFIGS, byte_tokenizer

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing import examples
from layercut.healing.sft import Trained, train_model
from layercut.healing.trainable import make_trainable

pytestmark = pytest.mark.gpu
SIZE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
DATA = tiny_data(24)


class Killed(BaseException):
    pass


def heal(folder: Path, settings: TrainSettings, kill_at: int | None = None) -> Trained:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **(CONFIGS["llama"] | SIZE))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).cuda()
    model.requires_grad_(False)

    def on_progress(done: int, total: int) -> None:
        if done == kill_at:
            raise Killed

    return train_model(
        make_trainable(model, settings), byte_tokenizer(), DATA, settings, folder, on_progress=on_progress
    )


def settings_of(**more: Any) -> TrainSettings:
    fixed: dict[str, Any] = {"method": "full", "max_steps": 6, "save_every": 2, "warmup_steps": 0, "patience": 0}
    return TrainSettings(**(fixed | {"learning_rate": 1e-3, "batch_size": 4, "micro_batch": 2} | more))


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor"])
def test_full_fine_tuning_learns_and_resumes(optimizer: str, tmp_path: Path) -> None:
    settings = settings_of(optimizer=optimizer)
    whole = heal(tmp_path / "whole", settings)
    assert whole.held_out["last"] < whole.held_out["before"]
    kept = AutoModelForCausalLM.from_pretrained(whole.final, dtype="auto")
    assert kept.dtype == torch.float32
    with pytest.raises(Killed):
        heal(tmp_path / "killed", settings, kill_at=3)
    resumed = heal(tmp_path / "killed", settings)
    losses = [[line["loss"] for line in run.curve if "loss" in line] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_logits_of_chunks_take_less_memory_and_have_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = heal(tmp_path / "whole", settings_of())
    monkeypatch.setattr(examples, "CHUNK_SIZE", 260 * 4)
    chunked = heal(tmp_path / "chunked", settings_of())
    first = [run.curve[1]["loss"] for run in (whole, chunked)]
    assert first[0] == pytest.approx(first[1], rel=1e-2)
