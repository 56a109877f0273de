"""Quantised checkpoints built by hand: tiny tensors in the layouts of the real formats, in two weight files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.tiny import byte_tokenizer, tiny_model

GROUP = 16


def fp8(weight: Tensor) -> dict[str, Tensor]:
    """DeepSeek's blocks: e4m3 values and the inverse scale of each block of 16 x 16."""
    rows, columns = (-(-size // GROUP) for size in weight.shape)
    return {"weight": weight.to(torch.float8_e4m3fn), "weight_scale_inv": torch.rand(rows, columns)}


def awq(weight: Tensor) -> dict[str, Tensor]:
    outputs, inputs = weight.shape
    groups = inputs // GROUP
    return {
        "qweight": _words(inputs, outputs // 8),
        "qzeros": _words(groups, outputs // 8),
        "scales": torch.rand(groups, outputs).half(),
    }


def gptq(weight: Tensor) -> dict[str, Tensor]:
    outputs, inputs = weight.shape
    groups = inputs // GROUP
    return {
        "qweight": _words(inputs // 8, outputs),
        "qzeros": _words(groups, outputs // 8),
        "scales": torch.rand(groups, outputs).half(),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def compressed(weight: Tensor) -> dict[str, Tensor]:
    """compressed-tensors, pack-quantized."""
    outputs, inputs = weight.shape
    return {
        "weight_packed": _words(outputs, inputs // 8),
        "weight_scale": torch.rand(outputs, inputs // GROUP).bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }


def bnb(weight: Tensor) -> dict[str, Tensor]:
    """bitsandbytes, nf4 with nested scales."""
    return {
        "weight": torch.randint(256, (weight.numel() // 2, 1)).byte(),
        "weight.absmax": torch.randint(256, (weight.numel() // 64,)).byte(),
        "weight.nested_absmax": torch.rand(1),
        "weight.nested_quant_map": torch.rand(256),
        "weight.quant_map": torch.rand(16),
        "weight.quant_state.bitsandbytes__nf4": torch.randint(256, (90,)).byte(),
    }


def modelopt(weight: Tensor) -> dict[str, Tensor]:
    """NVIDIA ModelOpt, FP8."""
    return {"weight": weight.to(torch.float8_e4m3fn), "weight_scale": torch.rand(()), "input_scale": torch.rand(())}


def save_quantized(
    path: Path,
    layout: Callable[[Tensor], dict[str, Tensor]],
    is_whole: Callable[[str], bool],
    config: dict[str, Any] | None,
    files: dict[str, Any] | None = None,
) -> Path:
    """The tiny Llama with its linear layers in ``layout``, but for modules that stay whole, in bfloat16.

    Args:
        path: the new folder.
        layout: tensors of a linear module by their suffix.
        is_whole: of a module's name, whether it is left unquantised.
        config: ``quantization_config``.
        files: more files, as JSON.
    """
    torch.manual_seed(0)
    model = tiny_model("llama")
    model.config.save_pretrained(path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        module, _, suffix = name.rpartition(".")
        if name == "lm_head.weight":  # tied
            continue
        if ".layers." in name and module.endswith("_proj") and not is_whole(module):
            tensors |= {f"{module}.{part}": value.contiguous() for part, value in layout(tensor).items()}
        else:
            tensors[f"{module}.{suffix}"] = tensor.bfloat16().contiguous()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, path / file, {"format": "pt"})
    weight_map = {name: file for file, own in parts.items() for name in own}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = json.loads((path / "config.json").read_text())
    if config is not None:
        settings["quantization_config"] = config
    (path / "config.json").write_text(json.dumps(settings))
    for file, data in (files or {}).items():
        (path / file).write_text(json.dumps(data))
    byte_tokenizer().save_pretrained(path)
    return path


def _words(*shape: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, shape).int()
