"""What the headers of a model's weight files say of its size; no weight is read."""

from __future__ import annotations

import re
from typing import NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.models.weights import read_config, read_header, safetensors_files

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\.")


class WeightCounts(NamedTuple):
    """A model's weights, from the headers of its files."""

    parameters: int
    stored_bytes: int
    bytes_in_memory: int
    adapter_parameters: int
    """Parameters of adapters of rank 1: the sum of rows and columns of all matrices in decoder layers."""
    layer_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    cache_bytes: int
    """Keys and values of one token."""
    vocabulary: int


def weight_counts(handle: ModelHandle) -> WeightCounts:
    """Counts of a model on disk, and the bytes that it takes in memory in the dtype of its handle."""
    folder = handle.source.path
    files, config = safetensors_files(folder), read_config(folder)
    config = inner if isinstance(inner := config.get("text_config"), dict) else config
    entries = [pair for file in sorted(set(files.values())) for pair in read_header(file).tensors.items()]
    in_layers = [entry for name, entry in entries if _LAYER.search(f".{name}")]
    parameters = sum(entry.num_parameters for _, entry in entries)
    stored = sum(entry.num_bytes for _, entry in entries)
    each = _DTYPE_BYTES.get(handle.dtype)
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    width = (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads)
    return WeightCounts(
        parameters=parameters,
        stored_bytes=stored,
        bytes_in_memory=stored if each is None else each * parameters,
        adapter_parameters=sum(sum(entry.shape) for entry in in_layers if len(entry.shape) == 2),
        layer_parameters=sum(entry.num_parameters for entry in in_layers),
        num_layers=handle.num_layers,
        hidden_size=hidden,
        intermediate_size=config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
        cache_bytes=2 * handle.num_layers * width * (each or 2),
        vocabulary=config.get("vocab_size", 0),
    )


def dtype_of(handle: ModelHandle) -> str:
    """The dtype of a model in memory."""
    weights = weight_counts(handle)
    stored = "float32" if weights.stored_bytes >= 4 * weights.parameters else "bfloat16"
    return handle.dtype if handle.dtype in _DTYPE_BYTES else stored
