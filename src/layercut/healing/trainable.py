"""Choose the trainable weights of a pruned model: adapters, all weights, or the head and the last layers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from layercut.errors import InputError, unknown
from layercut.healing.adapters import add_adapters
from layercut.healing.settings import METHODS
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.healing.settings import TrainSettings

logger = logging.getLogger(__name__)


def make_trainable(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """The model with gradients where ``settings.method`` wants them; adapters wrap it, the others change it in place.

    Raises:
        InputError: last-k of more layers than there are, or whole weights in half precision, which small steps at
            these learning rates do not move (load the model in float32; training runs in bfloat16 all the same).
        MissingExtra: PEFT is not installed.
    """
    method = settings.method
    if method in ("lora", "qlora"):
        return add_adapters(model, settings)
    if model.dtype != torch.float32:
        raise InputError(f"{method} trains weights in float32, not {model.dtype}; say --dtype float32.")
    if method == "full":
        model.requires_grad_(True)
        return model
    if method != "last-k":
        raise unknown("method", method, METHODS)
    layers = decoder_layers(model)
    if settings.last_k > len(layers):
        raise InputError(f"last-k of {settings.last_k} layers, but the pruned model has {len(layers)}; take fewer.")
    model.requires_grad_(False)
    for layer in list(layers)[-settings.last_k :]:
        layer.requires_grad_(True)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head.requires_grad_(True)
    if head.weight is model.get_input_embeddings().weight:
        logger.info("the head shares its weights with the embeddings, so last-k trains those too")
    return model


def bare(model: Any) -> Any:
    """The transformers model inside the adapters, or the model itself where there are none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def num_trainable(model: Any) -> int:
    """Parameters with gradients."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
