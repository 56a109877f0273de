"""Losses of chunks of rows against losses of all logits at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layercut.healing import examples
from layercut.healing.examples import Logits, in_loss, inputs_in, lazy_logits_in_loss, over_rows, token_losses
from layercut.healing.settings import TrainSettings
from tests.support.healing import tiny_data
from tests.support.tiny import CONFIGS, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from layercut.healing.distill import KINDS, divergence
from layercut.healing.trainable import make_trainable

VOCABULARY = 260
ROWS = 3
"""Rows of a chunk below."""


def batch_of(*, packed: bool = False) -> dict[str, Any]:
    items = [{"input_ids": one.input_ids, "labels": one.labels} for one in tiny_data(6, held_out=0).train]
    return dict(DataCollatorForLanguageModeling(pad_token_id=256, padding_free=packed)(items))


def targets_of(batch: dict[str, Any]) -> Tensor:
    targets: Tensor = batch["labels"][:, 1:][in_loss(batch)]
    return targets


def logits_in_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """All logits (N, V) at once."""
    made: Tensor = model(**inputs_in(batch), use_cache=False).logits[:, :-1]
    return made[in_loss(batch)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "CHUNK_SIZE", ROWS * VOCABULARY)


@pytest.mark.parametrize("kind", ["sft", *KINDS])
def test_chunks_have_the_losses_and_gradients_of_the_whole_to_ten_digits(kind: str, small_chunks: None) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, states, others = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((VOCABULARY, 16), (VOCABULARY, 12), (11, 16), (11, 12))
    )
    targets_N = torch.randint(VOCABULARY, (11,), generator=generator)
    weights_N = torch.rand(11, generator=generator, dtype=torch.float64)
    inputs = [student.requires_grad_(), states.requires_grad_()]

    def of_rows(made: Tensor, rows: list[Tensor]) -> Tensor:
        if kind == "sft":
            return token_losses(made, rows[0])
        return divergence(made, rows[0], kind)

    whole_N = of_rows(states @ student.T, [targets_N if kind == "sft" else others @ teacher.T])
    wanted = torch.autograd.grad((weights_N * whole_N).sum(), inputs)
    lazy = Logits(states, VOCABULARY, lambda chunk: chunk @ student.T)
    if kind == "sft":
        chunked_N = over_rows(token_losses, lazy, rows=[targets_N])
    else:
        frozen = Logits(others, VOCABULARY, lambda chunk: chunk @ teacher.T)
        chunked_N = over_rows(partial(divergence, kind=kind), lazy, frozen)
    found = torch.autograd.grad((weights_N * chunked_N).sum(), inputs)
    assert (chunked_N - whole_N).abs().max() < 1e-10
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_the_loss_and_the_gradient_of_all_its_logits(
    family: str, packed: bool, small_chunks: None
) -> None:
    """Some families scale or cap their logits behind the head."""
    model, batch = tiny_model(family), batch_of(packed=packed)
    made: list[int] = []
    whole_N = cross_entropy(logits_in_loss(model, batch), targets_of(batch), reduction="none")
    whole_N.sum().backward()
    wanted = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model.get_output_embeddings().register_forward_hook(lambda _, __, output: made.append(output.numel()))
    chunked_N = over_rows(token_losses, lazy_logits_in_loss(model, batch), rows=[targets_of(batch)])
    forward = len(made)
    chunked_N.sum().backward()
    assert torch.allclose(chunked_N, whole_N, atol=1e-5)
    assert len(whole_N) > 4 * ROWS and len(made) == 2 * forward - 1, "each chunk is made again for its gradient"
    assert max(made) <= max(ROWS, len(batch["labels"])) * VOCABULARY
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        if gradient is not None:
            assert (parameter.grad - gradient).abs().max() <= 2e-5 * gradient.abs().max() + 1e-7


def test_adapters_checkpointed_layers_and_autocast_are_those_of_the_whole(small_chunks: None) -> None:
    batch = batch_of()
    for computes_in in (None, torch.bfloat16):
        model = make_trainable(tiny_model("qwen2"), TrainSettings(rank=4, dropout=0.0))
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        head = model.get_base_model().get_output_embeddings()
        kinds: set[torch.dtype] = set()
        head.register_forward_hook(lambda _, __, output, kinds=kinds: kinds.add(output.dtype))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.autocast("cpu", computes_in, enabled=computes_in is not None):
            whole_N = token_losses(logits_in_loss(model, batch), targets_of(batch))
        with torch.autocast("cpu", computes_in, enabled=computes_in is not None):
            lazy = lazy_logits_in_loss(model, batch)
        chunked_N = over_rows(token_losses, lazy, rows=[targets_of(batch)])
        assert lazy.head is not None and kinds == {computes_in or torch.float32}
        tolerance = 1e-5 if computes_in is None else 2e-2
        assert torch.allclose(chunked_N, whole_N, rtol=tolerance, atol=tolerance)
        wanted = torch.cat([one.flatten() for one in torch.autograd.grad(whole_N.sum(), trained)])
        found = torch.cat([one.flatten() for one in torch.autograd.grad(chunked_N.sum(), trained)])
        assert (found - wanted).abs().max() < 2 * tolerance * wanted.abs().max() and found.abs().max() > 0


def test_a_teacher_gets_no_gradient(small_chunks: None) -> None:
    batch, student, teacher = batch_of(), tiny_model("llama"), tiny_model("llama", seed=1)
    with torch.no_grad():
        theirs = lazy_logits_in_loss(teacher, batch)
        theirs_NV = logits_in_loss(teacher, batch)
    ours, ours_NV = lazy_logits_in_loss(student, batch), logits_in_loss(student, batch)
    losses_N = over_rows(partial(divergence, kind="reverse-kl"), ours, theirs)
    assert torch.allclose(losses_N, divergence(ours_NV, theirs_NV, "reverse-kl"), atol=1e-5)
    losses_N.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


def test_logits_that_fit_in_one_chunk_are_those_of_the_model_to_the_bit() -> None:
    model, batch = tiny_model("llama"), batch_of()
    lazy = lazy_logits_in_loss(model, batch)
    assert lazy.head is None and torch.equal(lazy.states_ND, logits_in_loss(model, batch))
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert over_rows(token_losses, lazy_logits_in_loss(model, nothing), rows=[targets_of(nothing)]).shape == (0,)


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
