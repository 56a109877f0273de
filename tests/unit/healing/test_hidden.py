from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from layercut.errors import InputError
from layercut.healing.batches import given, in_loss
from layercut.healing.settings import TrainSettings
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers, remove_layers
from tests.support.healing import tiny_data
from tests.support.tiny import CONFIGS, NUM_LAYERS, byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing.distill import divergence
from layercut.healing.hidden import HiddenTrainer, relative_distance
from layercut.healing.places import matched_layers, outputs_of
from layercut.healing.trainable import make_trainable
from tests.unit.healing.test_batches import batch_of

PLAN = CutPlan(num_layers=NUM_LAYERS, removed=(2, 5))


def test_states_belong_together_where_a_layer_that_stays_reads_them() -> None:
    def pairs(*removed: int) -> dict[int, int]:
        return matched_layers(CutPlan(num_layers=6, removed=removed))

    assert pairs(2, 5) == {1: 2, 2: 3, 3: 5}
    assert pairs(4, 5) == {3: 5}, "of the last layers, only what the final norm reads is another"
    assert pairs(0) == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}
    with pytest.raises(InputError, match="was not cut"):
        pairs()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_layers_outputs_are_the_states_that_transformers_tells(family: str) -> None:
    model, ids = tiny_model(family), torch.arange(20)[None]
    with torch.no_grad(), outputs_of(decoder_layers(model), range(NUM_LAYERS - 1)) as seen:
        recorded = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(seen[index], recorded[index + 1]) for index in range(NUM_LAYERS - 1))


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_the_divergence_and_the_weighted_distance(packing: bool, tmp_path: Any) -> None:
    uncut = tiny_model("llama")
    cut = remove_layers(tiny_model("llama"), PLAN)
    settings = TrainSettings(objective="hidden", method="full", patience=0, packing=packing)
    trainer = trainer_of(make_trainable(cut, settings), uncut, tmp_path, settings, weight=0.3)
    batch = batch_of(tiny_data(6, held_out=0).train, packed=packing)
    found = trainer.compute_loss(cut.train(), dict(batch))

    states: dict[str, list[Tensor]] = {}
    logits = {}
    for name, model in (("cut", cut), ("uncut", uncut)):
        with outputs_of(decoder_layers(model), range(len(decoder_layers(model)))) as seen:
            logits[name] = model(**given(batch), use_cache=False).logits[:, :-1][in_loss(batch)]
        states[name] = [seen[index][:, :-1][in_loss(batch)] for index in range(len(seen))]
    far = torch.stack([relative_distance(states["cut"][a], states["uncut"][b]) for a, b in ((1, 2), (2, 3), (3, 5))])
    expected = divergence(logits["cut"], logits["uncut"], "forward-kl").mean() + 0.3 * far.mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert far.mean() > 0.01
    found.backward()
    below = next(decoder_layers(cut)[1].parameters()).grad
    assert below is not None and below.abs().max() > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(reentrant: bool, tmp_path: Any) -> None:
    settings = TrainSettings(objective="hidden", method="full", patience=0)
    batch = batch_of(tiny_data(4, held_out=0).train, packed=False)
    found = []
    for checkpointed in (False, True):
        cut = remove_layers(tiny_model("llama"), PLAN).train()
        trainer = trainer_of(make_trainable(cut, settings), tiny_model("llama"), tmp_path, settings, weight=0.3)
        if checkpointed:
            cut.gradient_checkpointing_enable({"use_reentrant": reentrant})
            cut.enable_input_require_grads()
        trainer.compute_loss(cut, dict(batch)).backward()
        found.append(torch.cat([p.grad.flatten() for p in cut.parameters() if p.grad is not None]))
    assert found[0].abs().max() > 0 and torch.allclose(found[0], found[1], atol=1e-6)


def trainer_of(model: Any, uncut: Any, folder: Any, settings: TrainSettings, weight: float) -> HiddenTrainer:
    from layercut.healing.sft import _config, _dataset

    return HiddenTrainer(
        model=model,
        args=_config(model, settings, folder, has_held_out=False),
        processing_class=byte_tokenizer(),
        train_dataset=_dataset(tiny_data(6, held_out=0).train),
        teacher=uncut,
        plan=PLAN,
        weight=weight,
    )
