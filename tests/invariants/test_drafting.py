"""Assisted generation with a draft view: the same tokens, and exactly the rounds that forward passes forecast."""

from __future__ import annotations

import random

import pytest
import torch

from layercut.drafting.assisted import draft_view, write_twice
from layercut.drafting.search import WrittenAnswer, find_rounds
from layercut.engine.base import LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.engine.stopping import stop_tokens
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from layercut.surgery.width import mlp_width_in
from tests.support.engines import by_id, log_likelihoods
from tests.support.loaded import greedy_tokens, tiny_loaded
from tests.support.tiny import NUM_LAYERS

FAMILIES = ("llama", "qwen2", "gemma2", "olmo2", "gpt2", "mistral")
FUSED = "phi3"
"""Gates and inputs in one matrix. The loop of transformers 5.24 accepts fewer of its tokens than the draft writes
alone, so that its rounds are not compared."""
LENGTH = 24
ORDERS = ("one", "halves", "pairs")


def plan_of(model_type: str, kind: str) -> CutPlan:
    """A plan without a layer, without a third of the channels, or both."""
    mlp = mlp_width_in(tiny_loaded(model_type).model)
    draw = random.Random(3)
    fewer = 2 if model_type != "mixtral" else 8
    kept = {
        layer: tuple(
            channel + at * mlp.width
            for at in range(mlp.mlps(layer))
            for channel in sorted(draw.sample(range(mlp.width), mlp.width - fewer))
        )
        for layer in mlp.slots
    }
    return CutPlan(
        num_layers=NUM_LAYERS,
        removed=(3,) if kind != "channels" else (),
        channels=Channels(field=mlp.field, width=mlp.width, kept=kept) if kind != "layers" else None,
    )


def answers_of(model_type: str) -> list[WrittenAnswer]:
    loaded = tiny_loaded(model_type)
    found = []
    for number, text in enumerate(("the", "a long beginning of", "7 * 8 =")):
        prompt = tuple(loaded.tokenizer(text)["input_ids"])
        tokens = tuple(greedy_tokens(loaded.model, prompt, LENGTH))
        ends = stop_tokens(loaded.tokenizer, loaded.model.generation_config)
        tokens = next((tokens[: place + 1] for place, token in enumerate(tokens) if token in ends), tokens)
        found.append(WrittenAnswer(str(number), "task", prompt, tokens, LENGTH))
    return found


@pytest.mark.parametrize("kind", ["layers", "channels", "both"])
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("window", [1, 3])
def test_the_same_tokens_in_the_rounds_that_were_forecast(model_type, kind, window):
    plan, answers = plan_of(model_type, kind), answers_of(model_type)
    asked = [
        LikelihoodRequest(id=one.id, prompt="", continuations=("",), tokens=(one.prompt, one.tokens)) for one in answers
    ]
    hits = {}
    for engine in (PlainEngine, SharedEngine):
        scores = by_id(log_likelihoods(engine(tiny_loaded(model_type)), asked, plan))
        hits[engine] = {name: score.hits[0] for name, score in scores.items()}
    assert hits[PlainEngine] == hits[SharedEngine]
    loaded = tiny_loaded(model_type)
    view = draft_view(loaded.model, plan)
    agreed = 0
    for answer, found in zip(answers, write_twice(loaded, view, answers, window), strict=True):
        rounds = find_rounds(hits[PlainEngine][answer.id], window, answer.limit)
        assert found.plain > 0 and found.drafted > 0
        assert found.is_same
        assert found.tokens == len(answer.tokens)
        assert found.rounds == len(rounds)
        # A draft that goes on along another text may end it, and then proposes fewer.
        assert 0 <= sum(rounds) - found.proposed <= window
        agreed += len(answer.tokens) - len(rounds)
    assert agreed, "a draft of which nothing is accepted shows nothing"


@pytest.mark.parametrize("kind", ["layers", "channels", "both"])
@pytest.mark.parametrize("model_type", [*FAMILIES, FUSED, "mixtral"])
def test_a_view_is_the_pruned_model(model_type, kind):
    loaded, plan = tiny_loaded(model_type), plan_of(model_type, kind)
    ids = torch.tensor([[5, 9, 40, 7, 8, 11]])
    with torch.no_grad():
        before = loaded.model(ids).logits
        with bypass(loaded.model, plan):
            pruned = loaded.model(ids).logits
        view = draft_view(loaded.model, plan)
        torch.testing.assert_close(view(ids).logits, pruned, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded.model(ids).logits, before, rtol=1e-4, atol=1e-4)
    held = {tensor.untyped_storage().data_ptr() for tensor in loaded.model.parameters()}
    own = [tensor for tensor in view.parameters() if tensor.untyped_storage().data_ptr() not in held]
    slots = [slot for of_layer in mlp_width_in(loaded.model).slots.values() for slot in of_layer]
    thin = {slot.name for slot in slots if slot.order in ORDERS}
    assert len(own) == (0 if kind == "layers" else len(decoder_layers(view)) * len(thin))


def test_the_head_reads_contiguous_tokens():
    loaded = tiny_loaded("llama")
    view, seen = draft_view(loaded.model, "3"), []
    head = view.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].stride()))
    view(torch.tensor([[5, 9, 40]]), logits_to_keep=1)
    width = view.config.hidden_size
    assert seen == [(width, width, 1)], "the stride of a slice would be three tokens"


def test_an_answer_of_another_tokenisation_is_read_as_it_was_written():
    loaded = tiny_loaded("llama")
    tokens = (5, 9, 259)
    asked = LikelihoodRequest(id="a", prompt="", continuations=("",), tokens=((40, 41), tokens))
    ((found,),) = log_likelihoods(PlainEngine(loaded), [asked], CutPlan(num_layers=NUM_LAYERS))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[40, 41, 5, 9]])).logits[0]
    assert found.hits[0] == tuple(int(logits[place].argmax()) == token for place, token in enumerate(tokens, start=1))
