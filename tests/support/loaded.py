"""A tiny model as ``load_model`` would give it, without a folder, and answers worked out the slow and obvious way."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from layercut.models.families import family_of
from tests.support.tiny import NUM_LAYERS, byte_tokenizer, tiny_model


def tiny_loaded(model_type: str, seed: int = 0) -> Any:
    tokenizer = byte_tokenizer()
    return SimpleNamespace(
        model=tiny_model(model_type, seed),
        tokenizer=tokenizer,
        family=family_of(model_type),
        name=f"tiny-{model_type}",
        model_hash="0" * 64,
        num_layers=NUM_LAYERS,
        has_chat_template=True,
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
