"""Weights of a loaded model in other dtypes: quantised by torchao, or a copy in a wider one. Nothing is written."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import psutil

from layercut.errors import InputError, MissingExtra, one_line
from layercut.models.structure import plain_experts

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_CONFIGS = {"int8": "Int8WeightOnlyConfig", "int4": "Int4WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
_GROUP = 32  # numbers that share a scale in 4 bits on a CPU, as in GGUF's Q4_0 and Q4_1
_OUTPUTS = 16  # its kernel takes multiples of this many outputs


def quantise(model: nn.Module, kind: str, name: str) -> None:
    """Replace the weights of all linear layers; the products are computed in the model's dtype.

    ``kind`` is one of ``layercut.settings.QUANTISED``, and ``name`` the model's, for messages.

    Raises MissingExtra: torchao is not installed; InputError: this machine, or this model, does not have that kind.
    """
    from layercut.models.quiet import quiet_transformers

    try:
        with quiet_transformers():
            from torchao import quantization
    except ImportError as error:
        raise MissingExtra("quantised weights", "torchao") from error
    try:
        if kind == "int4" and next(model.parameters()).device.type == "cpu":
            _in_four_bits(model)
        else:
            quantization.quantize_(model, getattr(quantization, _CONFIGS[kind])())
    except Exception as error:  # torchao raises all kinds: a library, a card or a width that it lacks
        raise InputError(
            f"torchao cannot quantise {name} to {kind} here ({one_line(error)}). Use `quantize` int8, or a GGUF file "
            "with `engine` llama.cpp."
        ) from error


def _in_four_bits(model: nn.Module) -> None:
    """On a CPU; torchao's config of the usual name runs on cards alone. Layers of other shapes stay as they are.

    In float32 its kernel takes forty times as long as a product with whole weights, so that is refused.
    """
    import torch
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    if next(model.parameters()).dtype == torch.float32:
        raise ValueError("on a CPU its products are in bfloat16: add `dtype` bfloat16")

    def takes(layer: nn.Module, name: str) -> bool:
        if not isinstance(layer, torch.nn.Linear):
            return False
        return layer.out_features % _OUTPUTS == 0 and layer.in_features % _GROUP == 0

    quantize_(model, PrototypeInt4WeightOnlyConfig(group_size=_GROUP, set_inductor_config=False), filter_fn=takes)
    if not any(hasattr(parameter, "__tensor_flatten__") for parameter in model.parameters()):
        raise ValueError(f"no linear layer has a multiple of {_GROUP} inputs and of {_OUTPUTS} outputs")


def stored_bytes(model: nn.Module, each: float | None = None) -> int:
    """Bytes of all parameters, of quantised ones with their scales.

    ``each``: bytes of a number that is not quantised; as in memory if left out.
    """

    def num_bytes(tensor: Any, each: float | None) -> float:
        if not hasattr(tensor, "__tensor_flatten__"):
            return float(tensor.nbytes) if each is None else each * tensor.numel()
        return sum(num_bytes(getattr(tensor, name), None) for name in tensor.__tensor_flatten__()[0])

    return round(sum(num_bytes(parameter, each) for parameter in model.parameters()))


def widened(model: PreTrainedModel) -> PreTrainedModel | None:
    """Copy a model with every weight in the next wider dtype, to tell another model from sums in another order.

    None for quantized weights, a model that is spread over devices, a device without that dtype, and where the copy
    would take more than is free.
    """
    import torch

    wider = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
    dtype, device = wider.get(model.dtype), model.device
    spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    if dtype is None or spread or device.type not in ("cpu", "cuda") or getattr(model, "quantization_method", None):
        return None
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if sum(dtype.itemsize * tensor.numel() for tensor in (*model.parameters(), *model.buffers())) > free:
        return None
    wide: Any = copy.deepcopy(model)
    wide.to(dtype)
    plain_experts(wide)  # grouped products know no float64
    return wide  # type: ignore[no-any-return]
