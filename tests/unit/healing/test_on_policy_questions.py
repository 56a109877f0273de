"""The model in training answers held-out questions, and its logits are read only where a token is in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.engine.base import Completion
from layercut.engine.plain import PlainEngine
from layercut.healing.data import source_records
from layercut.healing.examples import Data, encode_example, hold_out, lazy_logits_in_loss
from layercut.healing.heal import accuracies_in
from layercut.healing.prompt_sources import PromptGroup, TaskPrompts, task_prompts
from layercut.healing.settings import TrainSettings
from layercut.tasks import load_task
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing import distill
from layercut.healing.distill import accuracy_of_held_out, answering
from layercut.healing.examples import in_loss, inputs_in
from layercut.healing.sft import train
from layercut.healing.trainable import make_trainable


def data_of(found: TaskPrompts) -> Data:
    records = source_records([PromptGroup(found.prompts, found)], need_answers=True)
    return hold_out([encode_example(byte_tokenizer(), one) for one in records], 0.25, seed=1)


def test_what_the_learner_gets_right_stands_in_the_loss_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = task_prompts(load_task("arithmetic"), limit=24)
    data, cut = data_of(found), tiny_loaded("llama")
    monkeypatch.setattr(TaskPrompts, "are_right", lambda self, found: [int(one.id[-1], 16) % 2 == 0 for one in found])
    asked = [example.id for example in data.held_out][:4]
    settings = TrainSettings(
        method="full", max_steps=4, save_every=2, batch_size=4, warmup_steps=0, graded=4, schedule="cosine"
    )
    look = accuracy_of_held_out([found], data, cut, settings.graded)
    trained = train(make_trainable(cut.model, settings), byte_tokenizer(), data, settings, tmp_path, look=look)
    wanted = sum(int(name[-1], 16) % 2 == 0 for name in asked) / 4
    name = "accuracy of arithmetic (short, n=4)"
    assert accuracies_in(trained.curve) == [{"step": step, name: wanted} for step in (0, 2, 4)]
    rates = [line["learning_rate"] for line in trained.curve if "learning_rate" in line]
    assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0] / 2


def test_an_answer_is_the_one_that_the_model_gives_without_dropout() -> None:
    found = task_prompts(load_task("copy"), limit=8)
    data, cut = data_of(found), tiny_loaded("llama")
    model: Any = cut.model
    model.train()
    with answering(model, cut, 4) as engine:
        assert not model.training and engine.num_layers == cut.num_layers
    assert model.training, "it learns on"
    look = accuracy_of_held_out([found], data, cut, 2)
    first, second = look(model), look(model)
    assert first == second == {"accuracy of copy (short, n=2)": 0.0}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_answers_to_held_out_questions_are_those_of_the_plain_engine(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = task_prompts(load_task("copy"), limit=16)
    data, cut = data_of(found), tiny_loaded("llama")
    model = make_trainable(cut.model, TrainSettings(method=method))
    recorded: list[Completion] = []

    def all_right(self: TaskPrompts, answered: Sequence[Completion]) -> list[bool]:
        recorded.extend(answered)
        return [True] * len(answered)

    monkeypatch.setattr(TaskPrompts, "are_right", all_right)
    look = accuracy_of_held_out([found], data, cut, 4)
    assert look(model) == {"accuracy of copy (short, n=4)": 1.0}
    monkeypatch.setattr(distill, "fastest_engine", PlainEngine)
    look(model)
    shared, plain = recorded[:4], recorded[4:]
    assert sorted(shared, key=lambda one: one.id) == sorted(plain, key=lambda one: one.id)
    assert len({one.text for one in plain}) > 1


@pytest.mark.parametrize("family", CONFIGS)
def test_the_head_is_asked_only_where_something_is_learnt(family: str) -> None:
    model, generator = tiny_model(family), torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (3, 12), generator=generator)
    labels = ids.clone()
    labels[0, :4], labels[1, :9], labels[2, :6] = -100, -100, -100
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        whole = model(**inputs_in(batch), use_cache=False).logits[:, :-1][in_loss(batch)]
        assert torch.allclose(lazy_logits_in_loss(model, batch).states_ND, whole, atol=1e-5)
    assert len(whole) == 8 + 3 + 6
