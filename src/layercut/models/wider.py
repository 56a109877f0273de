"""A copy of a model in a wider dtype, to tell another model from sums in another order."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import psutil
import torch

from layercut.models.structure import plain_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}


def widened(model: PreTrainedModel) -> PreTrainedModel | None:
    """Copy a model with every weight in the next wider dtype, which holds the same numbers.

    Returns:
        None for quantized weights, a model that is spread over devices, a device without that dtype, and where the
        copy would take more than is free.
    """
    dtype, device = WIDER.get(model.dtype), model.device
    spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    if dtype is None or spread or device.type not in ("cpu", "cuda") or getattr(model, "quantization_method", None):
        return None
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if sum(dtype.itemsize * one.numel() for one in (*model.parameters(), *model.buffers())) > free:
        return None
    wide: Any = copy.deepcopy(model)
    wide.to(dtype)
    plain_experts(wide)  # grouped products know no float64
    return wide  # type: ignore[no-any-return]
