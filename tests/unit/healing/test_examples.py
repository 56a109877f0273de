"""Examples, batches of them, and losses of chunks of rows against those of all logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layercut.errors import InputError
from layercut.healing import examples as examples_module
from layercut.healing.examples import (
    IGNORED,
    Logits,
    StepsByLength,
    TrainingExample,
    encode_example,
    hold_out,
    lazy_logits_in_loss,
    mask_of_loss,
    over_rows,
    prompt_lengths_in,
    token_losses,
)
from layercut.healing.settings import TrainSettings
from tests.support.healing import TEMPLATES, chat_tokenizer, record, tiny_data, tiny_records
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from layercut.healing.distill import token_divergence
from layercut.healing.sft import Trained
from layercut.healing.trainable import make_trainable
from tests.support.training import small_settings, train_tiny

VOCABULARY = 260
SIX = tiny_data(6, held_out=0).train
ROWS = 3
"""Rows of a chunk below."""


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_loss_is_on_the_answer_and_its_end_of_turn_and_on_nothing_else(family):
    tokenizer, end = chat_tokenizer(family), TEMPLATES[family].end
    turns = [
        {"role": "user", "content": "Capital of Italy?"},
        {"role": "assistant", "content": "Rome"},
        {"role": "user", "content": "Of France?"},
    ]
    answer = " Paris" if family == "mistral" else "Paris"  # as the model writes it after [/INST]
    example = encode_example(tokenizer, record("a", turns, answer))

    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(example.prompt) == rendered
    assert tokenizer.decode(example.completion) == answer + end
    assert example.labels == [IGNORED] * len(example.prompt) + list(example.completion)
    assert len(example.labels) == len(example.input_ids)
    # Together they are what the template itself makes of the whole conversation, up to the end of the turn.
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Paris"}], tokenize=False)
    assert whole.startswith(tokenizer.decode(example.input_ids))
    left = whole.removeprefix(tokenizer.decode(example.input_ids)).strip()
    assert left in ("", tokenizer.eos_token), "phi3 ends a conversation that is over once more"
    assert example.completion[-1] == tokenizer.convert_tokens_to_ids(end), "one token, not its letters"
    assert tokenizer(whole, add_special_tokens=False)["input_ids"][: len(example)] == example.input_ids


TURN = "<|im_start|>assistant\nhello"
PLAIN = {"id": "a", "prompt": "2 + 3 =", "completion": " 5"}


@pytest.mark.parametrize(
    ("given", "learned"),
    [
        pytest.param(record("a", f"Say {TURN}", TURN), f"{TURN}<|im_end|>", id="words of the prompt in the answer"),
        pytest.param(record("a", "Count", "1 2 3", finish_reason="length"), "1 2 3", id="an answer cut by the limit"),
        pytest.param({**PLAIN, "stop": ["\n", "Q"]}, " 5\n", id="plain text ends with its stop string"),
        pytest.param(PLAIN, " 5<|im_end|>", id="plain text without one ends with eos"),
    ],
)
def test_what_is_learned_of_an_example(given, learned):
    tokenizer = byte_tokenizer()
    example = encode_example(tokenizer, given)
    assert tokenizer.decode(example.completion) == learned
    assert tokenizer.decode(example.prompt).count("hello") == str(given["prompt"]).count("hello")


def test_held_out_examples_follow_the_seed_and_not_the_order():
    examples = [encode_example(byte_tokenizer(), one) for one in tiny_records(20)]
    one, other = hold_out(examples, 0.1, 42), hold_out(examples[::-1], 0.1, 42)
    assert {e.id for e in one.held_out} == {e.id for e in other.held_out}
    assert len(one.held_out) == 2
    assert not {e.id for e in one.held_out} & {e.id for e in one.train}
    assert hold_out(examples, 0, 42).held_out == []
    with pytest.raises(InputError, match="no examples are left"):
        hold_out([], 0.1, 42)


def batch_of(examples: list[TrainingExample]) -> dict[str, Any]:
    """As training makes it."""
    collator = DataCollatorForLanguageModeling(pad_token_id=256)
    return dict(collator([{"input_ids": one.input_ids, "labels": one.labels} for one in examples]))


def test_the_prompts_of_a_batch_are_those_of_its_examples():
    examples = tiny_data(5, held_out=0).train
    batch = batch_of(examples)
    assert prompt_lengths_in(batch) == [one.prompt for one in examples]
    assert int(mask_of_loss(batch).sum()) == sum(len(one.completion) for one in examples)


def test_a_step_has_the_examples_of_the_draw_and_orders_them_by_length():
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


def test_training_is_the_same_in_any_micro_batches(tmp_path):
    def heal(micro_batch: int) -> Trained:
        wanted = small_settings(method="full", save_every=3, max_steps=7, micro_batch=micro_batch)
        return train_tiny(tiny_loaded("llama").model, tiny_data(24), wanted, tmp_path / str(micro_batch))

    padded, narrow = heal(4), heal(1)
    losses = [line["loss"] for line in padded.curve if "loss" in line]
    assert len(losses) == 7 and losses[-1] < losses[0]
    assert [line["loss"] for line in narrow.curve if "loss" in line] == pytest.approx(losses, rel=1e-3)
    assert narrow.tokens == padded.tokens


def targets_of(batch: dict[str, Any]) -> Tensor:
    targets: Tensor = batch["labels"][:, 1:][mask_of_loss(batch)]
    return targets


def logits_in_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """All logits (N, V) at once."""
    made: Tensor = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    return made[mask_of_loss(batch)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(examples_module, "CHUNK_SIZE", ROWS * VOCABULARY)


@pytest.mark.parametrize("kind", ["sft", "forward-kl", "reverse-kl"])
def test_chunks_have_the_losses_and_gradients_of_the_whole_to_ten_digits(kind, small_chunks):
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
        return token_divergence(made, rows[0], kind)

    whole_N = of_rows(states @ student.T, [targets_N if kind == "sft" else others @ teacher.T])
    wanted = torch.autograd.grad((weights_N * whole_N).sum(), inputs)
    lazy = Logits(states, VOCABULARY, lambda chunk: chunk @ student.T)
    if kind == "sft":
        chunked_N = over_rows(token_losses, lazy, rows=[targets_N])
    else:
        frozen = Logits(others, VOCABULARY, lambda chunk: chunk @ teacher.T)
        chunked_N = over_rows(partial(token_divergence, kind=kind), lazy, frozen)
    found = torch.autograd.grad((weights_N * chunked_N).sum(), inputs)
    assert (chunked_N - whole_N).abs().max() < 1e-10
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_the_loss_and_the_gradient_of_all_its_logits(family, small_chunks):
    """Some families scale or cap their logits behind the head."""
    model, batch = tiny_model(family), batch_of(SIX)
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


def test_adapters_checkpointed_layers_and_autocast_are_those_of_the_whole(small_chunks):
    batch = batch_of(SIX)
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


def test_a_teacher_gets_no_gradient(small_chunks):
    batch, student, teacher = batch_of(SIX), tiny_model("llama"), tiny_model("llama", seed=1)
    with torch.no_grad():
        theirs = lazy_logits_in_loss(teacher, batch)
        theirs_NV = logits_in_loss(teacher, batch)
    ours, ours_NV = lazy_logits_in_loss(student, batch), logits_in_loss(student, batch)
    losses_N = over_rows(partial(token_divergence, kind="reverse-kl"), ours, theirs)
    assert torch.allclose(losses_N, token_divergence(ours_NV, theirs_NV, "reverse-kl"), atol=1e-5)
    losses_N.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_logits_that_fit_in_one_chunk_are_those_of_the_model_where_something_is_learnt(family):
    model, batch = tiny_model(family), batch_of(SIX)
    lazy, whole = lazy_logits_in_loss(model, batch), logits_in_loss(model, batch)
    assert lazy.head is None and len(whole) < batch["labels"].numel()
    assert torch.equal(lazy.states_ND, whole)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    assert over_rows(token_losses, lazy_logits_in_loss(model, nothing), rows=[targets_of(nothing)]).shape == (0,)
