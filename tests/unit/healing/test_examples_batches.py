"""Packed and padded batches say the same of every example, and a step is the same in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layercut.healing.examples import IGNORED, StepsByLength, TrainingExample, encode_example, in_loss, inputs_in, rows
from layercut.healing.settings import TrainSettings
from tests.support.healing import TEMPLATES, chat_tokenizer, record, tiny_data
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from layercut.healing.sft import Trained, train
from layercut.healing.trainable import make_trainable


def batch_of(examples: list[TrainingExample], *, packed: bool) -> dict[str, Any]:
    """As training makes it."""
    collator = DataCollatorForLanguageModeling(pad_token_id=256, padding_free=packed)
    return dict(collator([{"input_ids": one.input_ids, "labels": one.labels} for one in examples]))


def loss_and_gradient(model: Any, batch: dict[str, Any]) -> tuple[float, Tensor]:
    """Summed over the tokens in the loss."""
    model.zero_grad()
    places = in_loss(batch)
    chosen = model(**inputs_in(batch), use_cache=False).logits[:, :-1][places].log_softmax(-1)
    loss = -chosen.gather(-1, batch["labels"][:, 1:][places][:, None]).sum()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check_packing(model: Any, examples: list[TrainingExample]) -> None:
    """One packed row against every example on its own."""
    alone = [loss_and_gradient(model, batch_of([one], packed=False)) for one in examples]
    loss, gradient = loss_and_gradient(model, batch_of(examples, packed=True))
    assert loss == pytest.approx(sum(one for one, _ in alone), rel=1e-4)
    expected = torch.stack([one for _, one in alone]).sum(0)
    assert (gradient - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_packed_row_has_the_loss_and_the_gradient_of_its_examples(family: str) -> None:
    check_packing(tiny_model(family), tiny_data(6, held_out=0).train)


@pytest.mark.parametrize("family", TEMPLATES)
def test_packing_crosses_no_example_under_any_template(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    turns = [{"role": "user", "content": "2 + 3 ="}, {"role": "assistant", "content": "5"}]
    examples = [
        encode_example(tokenizer, record("a", "Capital of France?", "Paris")),
        encode_example(tokenizer, record("b", [*turns, {"role": "user", "content": "and 1 more?"}], "six")),
        encode_example(tokenizer, record("c", "Count", "1 2 3", finish_reason="length")),
    ]
    model = tiny_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    check_packing(model, examples)


def test_a_packed_row_without_restarts_would_be_another_loss() -> None:
    """The comparison above can fail."""
    model, batch = tiny_model("llama"), batch_of(tiny_data(6, held_out=0).train, packed=True)
    right, _ = loss_and_gradient(model, batch)
    wrong, _ = loss_and_gradient(model, {**batch, "position_ids": torch.arange(batch["input_ids"].shape[1])[None]})
    assert wrong != pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_the_rows_of_a_batch_are_its_examples(packed: bool) -> None:
    examples = tiny_data(5, held_out=0).train
    batch = batch_of(examples, packed=packed)
    found = rows(batch)
    assert [row.input_ids.tolist() for row in found] == [one.input_ids for one in examples]
    assert [row.prompt for row in found] == [one.prompt for one in examples]
    in_loss_of_rows = [int((row.labels[1:] != IGNORED).sum()) for row in found]
    assert in_loss_of_rows == [len(one.completion) for one in examples]
    assert sum(in_loss_of_rows) == int(in_loss(batch).sum())


def test_a_step_has_the_examples_of_the_draw_and_orders_them_by_length() -> None:
    lengths = [7, 3, 9, 3, 8, 1, 5, 2, 6, 4]
    sampler = StepsByLength(lengths, 4, seed=11)
    drawn = torch.randperm(10, generator=torch.Generator().manual_seed(11)).tolist()
    first = list(sampler)
    for start in (0, 4, 8):
        step = first[start : start + 4]
        assert sorted(step) == sorted(drawn[start : start + 4])
        assert [lengths[index] for index in step] == sorted(lengths[index] for index in step)
    second = list(sampler)
    assert second != first and sorted(second) == list(range(10))
    sampler.set_epoch(0)
    assert list(sampler) == first
    other = StepsByLength(lengths, 4, seed=11)
    other.set_epoch(1)
    assert list(other) == second  # as a resumed training sees it


def heal(folder: Path, **more: Any) -> Trained:
    small: dict[str, Any] = {"method": "full", "warmup_steps": 0, "learning_rate": 1e-3, "patience": 0, "save_every": 3}
    settings = TrainSettings(**(small | {"max_steps": 7, "batch_size": 4, "micro_batch": 4} | more))
    model = make_trainable(tiny_loaded("llama").model, settings)
    return train(model, byte_tokenizer(), tiny_data(24), settings, folder)


def test_training_is_the_same_packed_or_padded_and_in_any_micro_batches(tmp_path: Path) -> None:
    padded = heal(tmp_path / "padded")
    packed = heal(tmp_path / "packed", packing=True)
    narrow = heal(tmp_path / "narrow", micro_batch=1)
    losses = [line["loss"] for line in padded.curve if "loss" in line]
    assert len(losses) == 7 and losses[-1] < losses[0]
    for other in (packed, narrow):
        assert [line["loss"] for line in other.curve if "loss" in line] == pytest.approx(losses, rel=1e-3)
        assert other.tokens == padded.tokens
    assert packed.held_out == pytest.approx(padded.held_out, rel=0.05)
