"""Device, memory and dtype of a model; its weights in other dtypes: quantised by torchao, or a copy in a wider one."""

from __future__ import annotations

import copy
import ctypes
import gc
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, MissingExtra, one_line, unknown_name
from layercut.models.quiet import quiet_transformers
from layercut.models.structure import plain_experts
from layercut.models.weights import num_elements, read_config
from layercut.runs.environment import memory_bytes
from layercut.settings import DEVICE_TYPES, DTYPES, ModelSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_CONFIGS = {"int8": "Int8WeightOnlyConfig", "int4": "Int4WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
MEMORY_SHARE = 0.7  # of the machine's memory, what weights in float32 may take


def pick_torch_dtype(
    folder: Path, dtype: str, *, device: str = "auto", device_map: str | Mapping[str, Any] | None = None
) -> str:
    """The dtype that a name stands for; only ``auto`` stands for another: ``auto`` (the checkpoint's own) or float32.

    On a CPU it is float32, as many CPUs are about eight times slower in half precision (docs/experiments/log.md).
    Quantized weights, those that would take more than MEMORY_SHARE of the memory in float32, and what a ``device_map``
    spreads stay as they are. Raises InputError: an unknown dtype or device.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if dtype != "auto" or device_map is not None or device_type(device) != "cpu":
        return dtype
    if "quantization_config" in read_config(folder):
        return dtype
    needed, memory = 4 * num_elements(folder), memory_bytes()
    if memory is not None and needed > MEMORY_SHARE * memory:
        logger.warning(
            "float32 would take %.1f of this machine's %.1f GiB, so the model keeps its checkpoint's dtype, "
            "which is slow on many CPUs",
            needed / 2**30,
            memory / 2**30,
        )
        return dtype
    return "float32"


def dtype_as_set(settings: ModelSettings, folder: Path) -> str:
    """The dtype that settings stand for; weights that are to have 4 bits are multiplied in bfloat16 alone."""
    if settings.quantize == "int4" and settings.dtype == "auto":
        return "bfloat16"
    return pick_torch_dtype(folder, settings.dtype, device=settings.device, device_map=settings.device_map)


def pick_device(device: str = "auto") -> torch.device:
    """The device a name stands for. Raises InputError: an unknown name, or a device that is not in this machine."""
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICE_TYPES:
        raise unknown_name("device", device, DEVICE_TYPES)
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"this machine has no device {device!r}; use auto or cpu.") from error
    return chosen


def device_type(device: str = "auto") -> str:
    """``pick_device(device).type``, without torch where the CPU was named or its wheel is for CPUs alone."""
    if device == "cpu" or (device == "auto" and "torch" not in sys.modules and version("torch").endswith("+cpu")):
        return "cpu"
    return pick_device(device).type


def give_back_memory() -> None:
    """Free what nothing refers to, and return it to the system; glibc kept 1.1 GB after a training of SmolLM2."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def placement_of(device: str, device_map: str | Mapping[str, Any] | None) -> str | dict[str, Any]:
    """transformers' device_map for either way to say where a model goes; one device also loads straight onto it."""
    if device_map is None:
        return {"": pick_device(device)}
    if device != "auto":
        logger.warning("device %s has no effect beside a device_map", device)
    return device_map if isinstance(device_map, str) else dict(device_map)


def quantise_weights(model: nn.Module, kind: str, name: str) -> None:
    """Replace the weights of all linear layers by a ``kind`` of QUANTISED; products are in the model's dtype."""
    try:
        with quiet_transformers():
            from torchao import quantization
    except ImportError as error:
        raise MissingExtra("quantised weights", "torchao") from error
    try:
        if kind == "int4" and next(model.parameters()).device.type == "cpu":
            raise ValueError("4 bits are multiplied on cards alone")
        quantization.quantize_(model, getattr(quantization, _CONFIGS[kind])())
    except Exception as error:  # torchao raises all kinds: a library, a card or a width that it lacks
        raise InputError(
            f"torchao cannot quantise {name} to {kind} here ({one_line(error)}); use int8 or a GGUF file."
        ) from error


def stored_bytes(model: nn.Module, each: float | None = None) -> int:
    """Bytes of all parameters, of quantised ones with their scales; ``each``: of a number that is not quantised."""

    def num_bytes(tensor: Any, each: float | None) -> float:
        if not hasattr(tensor, "__tensor_flatten__"):
            return float(tensor.nbytes) if each is None else each * tensor.numel()
        return sum(num_bytes(getattr(tensor, name), None) for name in tensor.__tensor_flatten__()[0])

    return round(sum(num_bytes(parameter, each) for parameter in model.parameters()))


def widened_model(model: PreTrainedModel) -> PreTrainedModel | None:
    """A copy in the next wider dtype, to tell another model from rounding; None where that cannot be."""
    import psutil
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
