"""A tiny model as `load_model` would give it, without a folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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
