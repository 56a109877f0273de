"""What a training step takes by the accounting, against the tensors that real training makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.healing.examples import Data, TrainingExample
from layercut.healing.settings import TrainSettings
from tests.support.tiny import CONFIGS, byte_tokenizer

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing import logits
from layercut.healing.distill import DistillTrainer
from layercut.healing.memory import PARTS, Meter, Shape, Where, training_bytes
from layercut.healing.sft import train
from layercut.healing.trainable import make_trainable

SIZE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
ON_CPU = Where(on_gpu=False, has_bfloat16=False, dtype="float32", teacher_dtype="float32")
TOKENS, IN_LOSS = 48, 30


def examples(count: int) -> list[TrainingExample]:
    """All of one length, so that there is no padding."""
    ids = tuple(5 + index % 50 for index in range(TOKENS))
    return [TrainingExample(str(index), ids[:-IN_LOSS], ids[-IN_LOSS:]) for index in range(count)]


@pytest.fixture
def model_folder(tmp_path: Path) -> Any:
    def write(family: str) -> Path:
        config = AutoConfig.for_model(family, **(CONFIGS[family] | SIZE))
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
        return tmp_path / family

    return write


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {"method": "full"}),
        ("llama", {"method": "full", "gradient_checkpointing": "on"}),
        ("llama", {"method": "full", "optimizer": "adafactor"}),
        ("llama", {"method": "full", "precision": "bfloat16"}),
        ("llama", {"method": "last-k", "last_k": 1, "batch_size": 4}),
        ("mistral", {"method": "lora", "rank": 8}),
        ("mistral", {"method": "lora", "rank": 8, "objective": "forward-kl"}),
        ("gemma2", {"method": "full"}),
    ],
)
def test_the_bytes_of_a_step_are_those_that_training_makes(
    family: str, more: dict[str, Any], model_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "CHUNK_SIZE", 260 * 50)  # four examples of 30 tokens take three chunks
    settings = TrainSettings(**({"batch_size": 8, "max_steps": 3, "patience": 0, "warmup_steps": 0} | more))
    folder, options = model_folder(family), {}
    uncut: Any = None
    if settings.objective != "sft":
        uncut = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
        options = {"trainer": DistillTrainer, "teacher": uncut, "kind": settings.objective}
    predicted = training_bytes(
        folder,
        None if uncut is None else folder,
        settings,
        Shape(4, TOKENS, IN_LOSS),
        ON_CPU,
        accumulation=settings.batches().accumulation,
    )
    loaded = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    model = make_trainable(loaded, settings)
    with Meter(260, []) as meter:
        for part, tree in (("weights", model), ("teacher", uncut)):
            for tensor in (*tree.parameters(), *tree.buffers()) if tree is not None else ():
                meter.label(tensor, part)
        train(model, byte_tokenizer(), Data(examples(24), []), settings, tmp_path / "run", **options)
    assert sum(predicted.values()) == pytest.approx(meter.most, rel=0.1), (predicted, meter.fullest)
    assert set(predicted) == set(PARTS)
    assert predicted["weights"] == pytest.approx(meter.fullest["weights"], rel=0.02) or settings.precision != "auto"
    assert predicted["teacher"] == meter.fullest.get("teacher", 0)


def test_each_setting_takes_what_its_table_says(model_folder: Any) -> None:
    folder, shape = model_folder("llama"), Shape(4, TOKENS, IN_LOSS)
    count = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(folder).parameters())

    def taken(on_gpu: bool = False, **more: Any) -> dict[str, int]:
        where = ON_CPU._replace(on_gpu=on_gpu, has_bfloat16=on_gpu)
        return training_bytes(folder, None, TrainSettings(method="full", **more), shape, where, accumulation=2)

    plain, halves = taken(), taken(weights="bfloat16")
    assert (plain["weights"], plain["optimizer"]) == pytest.approx((4 * count, 8 * count), rel=0.02)
    assert (halves["weights"], halves["gradients"]) == pytest.approx((2 * count, 2 * count), rel=0.05)
    assert taken(optimizer="adafactor")["optimizer"] < 0.05 * plain["optimizer"]
    assert taken(on_gpu=True)["activations"] < 0.5 * plain["activations"], "layers are computed again"


def test_graded_answers_take_what_fine_tuning_on_them_takes(model_folder: Any) -> None:
    folder, shape = model_folder("llama"), Shape(4, TOKENS, IN_LOSS)
    sft, grpo = (
        training_bytes(folder, None, TrainSettings(rank=8, objective=name), shape, ON_CPU, accumulation=2)
        for name in ("sft", "grpo")
    )
    assert grpo == sft and grpo["teacher"] == 0


def test_the_base_of_qlora_takes_four_bits_a_weight(model_folder: Any) -> None:
    folder = model_folder("llama")
    shapes = [one.shape for one in AutoModelForCausalLM.from_pretrained(folder).parameters()]
    in_layers = sum(shape.numel() for shape in shapes if len(shape) == 2 and 260 not in shape)
    others = sum(shape.numel() for shape in shapes) - in_layers
    where = ON_CPU._replace(on_gpu=True, has_bfloat16=True, dtype="bfloat16")
    lora, qlora = (
        training_bytes(folder, None, TrainSettings(method=method, rank=4), Shape(4, TOKENS, IN_LOSS), where)
        for method in ("lora", "qlora")
    )
    saved = 2 * (in_layers + others) - (in_layers * 0.5159 + 4 * others)
    assert lora["weights"] - qlora["weights"] == pytest.approx(saved, rel=0.01)


def test_tensors_count_while_they_are_alive() -> None:
    with Meter(7, [(3, 3)]) as meter:
        kept = torch.zeros(3, 7)
        view = kept[1:]
        assert meter.live == {"logits": 84}
        torch.zeros(1000)
        del kept
        assert meter.live["logits"] == 84 and view is not None
        with meter.gradients():
            made = torch.zeros(3, 3)
        meter.label(made, "weights")
    assert (meter.live["gradients"], meter.live["weights"], meter.most) == (0, 36, 4084)
    del view
    assert meter.live["logits"] == 0
