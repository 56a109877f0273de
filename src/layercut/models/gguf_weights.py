"""A GGUF file as the checkpoint that it is converted to, from its header: tensor names, shapes and the fingerprint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError
from layercut.models.gguf_file import EMBEDDINGS, Copy, GgufHead, GgufTensor
from layercut.models.weights import TensorSpan, fingerprint_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ONE_MORE = frozenset({"gemma2", "gemma3"})  # llama.cpp's converter adds 1 to the weights of their norms
INTERLEAVED = frozenset({"llama"})  # it interleaves the rotary halves of their queries and keys
ALIKE = frozenset({"qwen2", "qwen3", *ONE_MORE, *INTERLEAVED})
"""Architectures of which every tensor of the checkpoint is one tensor of the file."""


def spans_of_gguf(file: Path, model: PreTrainedModel, head: GgufHead, copy: Copy | None) -> list[TensorSpan]:
    """The tensors of the converted checkpoint; ``offset`` is the number of the file's tensor that holds each.

    ``model`` is on the meta device. Raises CheckpointError: the file lacks one, or holds it in another shape.
    """
    import gguf

    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == head.architecture)
    names = gguf.get_tensor_name_map(architecture, head.num_blocks or 0)
    places = {tensor.name: place for place, tensor in enumerate(head.tensors)}
    spans = []
    for name, parameter in sorted(model.named_parameters()):
        of_file = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if copy is not None and of_file == EMBEDDINGS:
            of_file = copy.kept.name
        if (place := places.get(str(of_file))) is None:
            raise CheckpointError(f"{file} has no weights for {name} ({of_file}); fetch it again.")
        shape = tuple(parameter.shape)
        if (held := head.tensors[place].shape[::-1]) != shape:
            raise CheckpointError(f"{file}: {of_file} has the shape {list(held)}, its metadata ask for {list(shape)}.")
        spans.append(TensorSpan(name, "BF16", shape, Path(), place))
    return spans


def fingerprint_of_gguf(file: Path, head: GgufHead, spans: list[TensorSpan], config: Mapping[str, Any]) -> str:
    """The fingerprint of the converted checkpoint; only the rows that it samples are dequantised."""

    def read(span: TensorSpan, offset: int, count: int) -> bytes:
        first, end = offset // 2, -(-(offset + count) // 2)
        values = _read_values(file, head.architecture, head.tensors[span.offset], (first, end), config)
        return values[offset - 2 * first :][:count]

    return fingerprint_of(spans, config, read)


def _read_values(
    file: Path, architecture: str, tensor: GgufTensor, places: tuple[int, int], config: Mapping[str, Any]
) -> bytes:
    """Values of a tensor as transformers lays them out, in bfloat16; ``places``: the first, and the end."""
    import gguf
    import numpy as np
    import torch

    width, num_rows = tensor.shape[0], math.prod(tensor.shape[1:])
    first, end = places[0] // width, -(-places[1] // width)
    rows = np.arange(num_rows)
    for name, heads in ((".attn_q.", "num_attention_heads"), (".attn_k.", "num_key_value_heads")):
        if architecture in INTERLEAVED and name in tensor.name:
            rows = rows.reshape(config[heads], -1, 2).swapaxes(1, 2).reshape(-1)
    raw = np.memmap(file, np.uint8, "r", tensor.offset, (num_rows, tensor.num_bytes // num_rows))
    values = gguf.quants.dequantize(np.array(raw[rows[first:end]]), gguf.GGMLQuantizationType(tensor.kind))
    if architecture in ONE_MORE and tensor.name.endswith("norm.weight"):
        values = values - 1
    part = values.reshape(-1)[places[0] - first * width : places[1] - first * width]
    return torch.from_numpy(part.astype(np.float32)).bfloat16().view(torch.int16).numpy().tobytes()
