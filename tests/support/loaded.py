"""A tiny model as ``load_model`` would give it, without a folder, and answers worked out the slow and obvious way."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from layercut.models.loading import LoadedModel
from layercut.models.sources import ModelSource
from layercut.models.structure import structure_in
from tests.support.tiny import NUM_LAYERS, byte_tokenizer, tiny_model


def tiny_loaded(model_type: str, seed: int = 0) -> LoadedModel:
    """A tiny model with a tokenizer of its own, so that a test may change either."""
    return as_loaded(tiny_model(model_type, seed), NUM_LAYERS)


def as_loaded(model: PreTrainedModel, num_layers: int) -> LoadedModel:
    """A model that was built here, with a byte tokenizer."""
    return LoadedModel(
        model=model,
        tokenizer=copy.deepcopy(byte_tokenizer()),
        structure=structure_in(model),
        source=ModelSource(name=f"tiny-{model.config.model_type}", path=Path("nowhere")),
        model_hash="0" * 16,
        num_layers=num_layers,
    )


@torch.no_grad()
def greedy_tokens(model: PreTrainedModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The likeliest next token again and again, each by a full forward pass over one row without cache or padding."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@torch.no_grad()
def log_likelihood(model: PreTrainedModel, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """Sum of ln p over the continuation by a full forward pass over one row, and whether it is the greedy answer."""
    logits = model(torch.tensor([[*context, *continuation]]), use_cache=False).logits[0].double()
    log_p = logits.log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(log_p[place, token]) for place, token in zip(places, continuation, strict=True))
    return total, all(int(logits[place].argmax()) == token for place, token in zip(places, continuation, strict=True))
