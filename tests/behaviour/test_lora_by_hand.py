"""The LoRA arm against PEFT and TRL, run by hand on the same texts: the same losses and the same adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from layercut import api
from layercut.healing.examples import Data, encode_example
from layercut.healing.settings import BETAS, TrainSettings
from layercut.healing.sft import train_model
from layercut.healing.trainable import make_trainable
from layercut.models.loading import load_model

pytestmark = pytest.mark.slow

SEED = 5
ANSWERS = {
    "Question: What is 12 + 30?\nAnswer:": " The sum of 12 and 30 is 42.",
    "Question: Name a colour of the rainbow.\nAnswer:": " Green, between yellow and blue.",
    "Copy this: ((]) x\n": "((]) x",
    "Question: Which is larger, 7 or 9?\nAnswer:": " 9 is larger than 7, by 2.",
}
SETTINGS = TrainSettings(
    rank=8, alpha=16, dropout=0.0, learning_rate=2e-4, schedule="linear", warmup_steps=1, batch_size=4, micro_batch=2,
    max_steps=5, save_every=5, patience=0, held_out=0.0, seed=SEED,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("cut") / "model"
    api.cut("bundled:smollm2-135m", "20-22", out)
    return out


def by_hand(checkpoint: Path, folder: Path) -> list[float]:
    """TRL tokenises prompt and completion, and masks the prompt, itself."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(SEED)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=linear)
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=5,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        warmup_steps=1,
        weight_decay=SETTINGS.weight_decay,
        adam_beta1=BETAS["beta1"],
        adam_beta2=BETAS["beta2"],
        max_grad_norm=SETTINGS.max_grad_norm,
        logging_steps=1,
        seed=SEED,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
    )
    texts = [{"prompt": prompt, "completion": answer} for prompt, answer in ANSWERS.items()]
    trainer = SFTTrainer(
        model=get_peft_model(model, adapters),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
        train_dataset=Dataset.from_list(texts),
    )
    trainer.train()
    trainer.save_model(str(folder / "final"))
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_lora_trains_as_peft_and_trl_do(checkpoint, tmp_path):
    loaded = load_model(str(checkpoint), dtype="float32")
    records: list[dict[str, Any]] = [
        {"id": str(number), "prompt": prompt, "completion": answer, "finish_reason": "stop"}
        for number, (prompt, answer) in enumerate(ANSWERS.items())
    ]
    examples = [encode_example(loaded.tokenizer, record) for record in records]
    torch.manual_seed(SEED)
    ours = train_model(
        make_trainable(loaded.model, SETTINGS), loaded.tokenizer, Data(examples, []), SETTINGS, tmp_path / "ours"
    )
    theirs = by_hand(checkpoint, tmp_path / "theirs")
    assert [line["loss"] for line in ours.curve] == pytest.approx(theirs, rel=1e-4)
    assert len(theirs) == 5 and theirs[-1] < 0.95 * theirs[0]
    left, right = (
        load_file(folder / "adapter_model.safetensors") for folder in (ours.final, tmp_path / "theirs" / "final")
    )
    assert left.keys() == right.keys()
    for name, weight in left.items():
        # Adam turns rounding in a tiny gradient into a whole step, so single numbers may differ.
        assert (weight - right[name]).norm() <= 0.02 * right[name].norm(), name
