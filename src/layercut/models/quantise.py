"""Quantise the weights of a loaded model by torchao, to see what smaller weights keep. Nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIGS = {"int8": "Int8WeightOnlyConfig", "int4": "Int4WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def quantise(model: nn.Module, kind: str, name: str) -> None:
    """Replace the weights of all linear layers; the products are computed in the model's dtype.

    Args:
        kind: one of ``layercut.settings.QUANTISED``.
        name: of the model, for messages.

    Raises:
        MissingExtra: torchao is not installed.
        InputError: this machine, or this model, does not have that kind.
    """
    from layercut.models.quiet import quiet_transformers

    try:
        with quiet_transformers():
            from torchao import quantization
    except ImportError as error:
        raise MissingExtra("quantised weights", "torchao") from error
    try:
        quantization.quantize_(model, getattr(quantization, _CONFIGS[kind])())
    except Exception as error:  # torchao raises all kinds: a library, a card or a width that it lacks
        raise InputError(
            f"torchao cannot quantise {name} to {kind} here ({one_line(error)}). Use `quantize` int8, or a GGUF file "
            "with `engine` llama.cpp."
        ) from error


def stored_bytes(model: nn.Module, each: float | None = None) -> int:
    """Bytes of all parameters, of quantised ones with their scales.

    Args:
        each: bytes of a number that is not quantised; as in memory if left out.
    """
    return round(sum(_bytes(one, each) for one in model.parameters()))


def _bytes(tensor: Tensor | Any, each: float | None) -> float:
    if not hasattr(tensor, "__tensor_flatten__"):
        return float(tensor.nbytes) if each is None else each * tensor.numel()
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name), None) for name in names)
