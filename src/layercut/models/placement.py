"""Device and dtype of a model."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, unknown
from layercut.models.weights import num_elements, read_config
from layercut.runs.environment import memory_bytes
from layercut.settings import DEVICE_TYPES, DTYPES, ModelSettings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


MEMORY_SHARE = 0.7  # of the machine's memory, what weights in float32 may take


def pick_dtype(
    folder: Path, dtype: str, *, device: str = "auto", device_map: str | Mapping[str, Any] | None = None
) -> str:
    """The dtype that a name stands for; only ``auto`` stands for another: ``auto`` (the checkpoint's own) or float32.

    On a CPU ``auto`` is float32. Many CPUs have no instructions for half precision and are about eight times slower in
    it (docs/experiments/log.md), and float32 has the fewest answers that hang on rounding. Quantized weights, and
    weights that would take more than MEMORY_SHARE of the memory in float32, stay as they are, and so does what a
    ``device_map`` spreads. Raises InputError: an unknown dtype or device.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
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
    return pick_dtype(folder, settings.dtype, device=settings.device, device_map=settings.device_map)


def pick_device(device: str = "auto") -> torch.device:
    """The device a name stands for. Raises InputError: an unknown name, or a device that is not in this machine."""
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICE_TYPES:
        raise unknown("device", device, DEVICE_TYPES)
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
