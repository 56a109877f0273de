"""Counts of a model's weights from the headers of its files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from layercut.models.structure import Structure, text_part
from layercut.models.weights import read_config, stored_tensors

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class WeightCounts(NamedTuple):
    """A model's weights."""

    parameters: int
    stored_bytes: int
    in_layers: int  # parameters of the decoder layers
    of_adapters: int  # parameters of adapters of rank 1: the sum of rows and columns of all matrices in decoder layers
    num_layers: int
    hidden_size: int
    vocabulary: int

    def in_memory(self, dtype: str) -> int:
        """Bytes in a dtype; those on disk for any but those of ``DTYPE_BYTES``."""
        return DTYPE_BYTES[dtype] * self.parameters if dtype in DTYPE_BYTES else self.stored_bytes


def weight_counts(folder: Path, num_layers: int, structure: Structure) -> WeightCounts:
    """Counts of a checkpoint on disk."""
    tensors, config = stored_tensors(folder), text_part(read_config(folder))
    layers = [tensor.entry for tensor in tensors if structure.tensor_pattern.match(tensor.name)]
    return WeightCounts(
        parameters=sum(tensor.entry.num_parameters for tensor in tensors),
        stored_bytes=sum(tensor.entry.num_bytes for tensor in tensors),
        in_layers=sum(entry.num_parameters for entry in layers),
        of_adapters=sum(sum(entry.shape) for entry in layers if len(entry.shape) == 2),
        num_layers=num_layers,
        hidden_size=config.get("hidden_size") or config.get("n_embd") or 0,
        vocabulary=config.get("vocab_size", 0),
    )


def cached_values(folder: Path) -> int:
    """Numbers that keys and values of one token are, in one layer."""
    config = text_part(read_config(folder))
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    return int(2 * (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads))
