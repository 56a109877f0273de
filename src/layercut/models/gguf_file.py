"""The header of a GGUF file: its metadata, where its tensors lie, and a check that all exist; no tensor is read.

But for one question: an output head may be another quantisation of the embeddings' matrix. Rounding to steps of size s
moves a value by s / sqrt(12) in the root mean square; rows of one matrix differ by no more than both types explain.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError
from layercut.runs.json_text import parse_json

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's numbers of value types, and how struct reads them."""
STRING, ARRAY = 8, 9
PLAN, EARLIER = "layercut.plan", "layercut.earlier_plans"
"""Keys that hold plan.json, and the plans of earlier cuts, oldest first, as JSON."""
_LONGEST = 2**24  # entries of an array; the largest vocabularies have 2**20
DEFAULT_ALIGNMENT = 32
_MOST_SIZES = 8  # dimensions of a tensor; ggml has 4
_TEXTS = ("general.architecture", "general.name", "general.license", "tokenizer.ggml.pre", "tokenizer.ggml.model")
_WHOLE_NUMBERS = ("split.count", ".block_count", ".nextn_predict_layers", "_token_id", "general.alignment")

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"  # their names in GGUF files
_STEPS: Mapping[str, tuple[int, int]] = {
    "Q4_0": (32, 16), "Q4_1": (32, 16), "Q5_0": (32, 32), "Q5_1": (32, 32), "Q8_0": (32, 255), "Q2_K": (16, 4),
    "Q3_K": (16, 8), "Q4_K": (32, 16), "Q5_K": (32, 32), "Q6_K": (16, 64),
}  # fmt: skip
"""Of ggml types: weights that share a scale, and the levels of that scale."""
_MANTISSA = {"F32": 23, "F16": 10, "BF16": 7}  # bits of the mantissa of float types
SLACK = 1.25
"""Distance of two rows that count as one, in multiples of what rounding explains; Qwen2.5-Coder-1.5B has 0.96."""
MOST_OTHERS = 0.001  # share of the rows that may differ by more
_CHUNK = 4096


class GgufField(NamedTuple):
    """One key of the metadata."""

    kind: int  # number of the value's type; of an array's entries for an array
    raw: bytes  # key and value as they are in the file


class GgufTensor(NamedTuple):
    """One tensor and where its bytes lie."""

    name: str
    shape: tuple[int, ...]  # innermost dimension first, as ggml has it
    kind: int  # number of the ggml type, such as 12 for Q4_K
    offset: int  # first byte, counted from the start of the file

    @property
    def num_bytes(self) -> int:
        block, num_bytes = block_sizes(self.kind)
        return math.prod(self.shape) // block * num_bytes


@dataclass(frozen=True)
class GgufHead:
    """The header of a GGUF file."""

    metadata: Mapping[str, Any]  # numbers and strings
    arrays: Mapping[str, tuple[Any, ...]]
    fields: Mapping[str, GgufField]  # every key of the metadata, in the file's order
    tensors: tuple[GgufTensor, ...]
    alignment: int  # each tensor begins at a multiple of it, counted from where the first begins
    version: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family, such as ``llama`` or ``qwen2``."""
        return str(self.metadata["general.architecture"])

    @property
    def num_blocks(self) -> int | None:
        """Blocks that the metadata count: decoder layers, and behind them those for multi-token prediction."""
        counted = self.metadata.get(f"{self.architecture}.block_count")
        return None if counted is None else int(counted)

    @property
    def num_layers(self) -> int | None:
        """Decoder layers; None where the metadata do not count them."""
        if self.num_blocks is None:
            return None
        return self.num_blocks - int(self.metadata.get(f"{self.architecture}.nextn_predict_layers", 0))

    @cached_property
    def num_parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def token_ids(self, *names: str) -> list[int]:
        """Ids of the named special tokens, such as ``eos``, that the file has, without doubles."""
        tokens = (self.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names)
        return list(dict.fromkeys(int(token) for token in tokens if token is not None))


def read_gguf_head(path: Path) -> GgufHead:
    """Read a GGUF file's metadata and check that it is whole."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            if (magic := file.read(4)) != MAGIC:
                raise CheckpointError(
                    f"{path} is not a GGUF file (it begins with {magic!r}); give a .gguf file, a folder or a hub id."
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                head = _read(data, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except (struct.error, ValueError, LookupError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is truncated or damaged: its header cannot be read; fetch it again.") from error
    for key, value in head.metadata.items():
        is_number = type(value) is int and 0 <= value < 2**32
        if (key.endswith(_TEXTS) and not isinstance(value, str)) or (key.endswith(_WHOLE_NUMBERS) and not is_number):
            raise CheckpointError(f"{path} is damaged: its header says {key} = {value!r}; fetch it again.")
    if "general.architecture" not in head.metadata:
        raise CheckpointError(f"{path} does not say what architecture it holds; it is no language model in GGUF.")
    if (parts := head.metadata.get("split.count", 1)) > 1:
        raise CheckpointError(f"{path} is one of {parts} parts; join them with `llama-gguf-split --merge` first.")
    if not head.tensors:
        raise CheckpointError(f"{path} holds no tensors, only a vocabulary or metadata.")
    end = max(tensor.offset + tensor.num_bytes for tensor in head.tensors)
    if end > (size := path.stat().st_size):
        raise CheckpointError(
            f"{path} is truncated: its header says it has {end:,} bytes, the file has {size:,}; fetch it again."
        )
    return head


def recorded_plans(head: GgufHead) -> list[dict[str, Any]]:
    """The plans by which layercut cut a file, oldest first, as plan.json holds them."""
    plans: list[Any] = []
    for key in (EARLIER, PLAN):
        if key in head.metadata:
            try:
                recorded = parse_json(head.metadata[key])
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{key} of this GGUF file is not the JSON of a plan ({error}).") from error
            plans += recorded if isinstance(recorded, list) else [recorded]
    if not all(isinstance(plan, dict) for plan in plans):
        raise CheckpointError(f"{PLAN} or {EARLIER} of this GGUF file is not the JSON of a plan.")
    return plans


def block_sizes(kind: int) -> tuple[int, int]:
    """Numbers in a block of a ggml type, which have scales in common, and its bytes; 1 number for float types."""
    import gguf

    block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return block, num_bytes


def _bytes(data: mmap.mmap, count: int) -> bytes:
    begin = data.tell()
    data.seek(count, os.SEEK_CUR)  # a ValueError past the end of a file
    data.seek(begin)
    return data.read(count)


def _number(data: mmap.mmap, kind: str) -> Any:
    (value,) = struct.unpack(kind, data.read(struct.calcsize(kind)))
    return value


def _value(data: mmap.mmap, kind: int) -> Any:
    """The value of a key: a number, a string, or a tuple of them."""
    if kind == STRING:
        return _bytes(data, _number(data, "<Q")).decode("utf-8")
    if kind != ARRAY:
        return _number(data, SCALARS[kind])
    inner, count = _number(data, "<I"), _number(data, "<Q")
    if count > _LONGEST:
        raise OverflowError(count)
    if inner in SCALARS:
        return struct.unpack(f"<{count}{SCALARS[inner][1]}", _bytes(data, count * struct.calcsize(SCALARS[inner])))
    if inner == STRING:  # a vocabulary may hold bytes that are no text
        return tuple(_bytes(data, _number(data, "<Q")).decode("utf-8", "surrogateescape") for _ in range(count))
    return tuple(_value(data, inner) for _ in range(count))


def _read(data: mmap.mmap, path: Path) -> GgufHead:
    data.seek(len(MAGIC))
    version = _number(data, "<I")
    if version not in (2, 3):
        raise CheckpointError(f"{path} is GGUF version {version}; versions 2 and 3 in little-endian order are read.")
    num_tensors, num_keys = _number(data, "<Q"), _number(data, "<Q")
    metadata: dict[str, Any] = {}
    arrays: dict[str, tuple[Any, ...]] = {}
    fields: dict[str, GgufField] = {}
    for _ in range(num_keys):
        begin = data.tell()
        key, kind = _value(data, STRING), _number(data, "<I")
        values, value_begin = arrays if kind == ARRAY else metadata, data.tell()
        values[key] = _value(data, kind)
        if kind == ARRAY:
            (kind,) = struct.unpack_from("<I", data, value_begin)
        fields[key] = GgufField(kind, data[begin : data.tell()])
    tensors = []
    for _ in range(num_tensors):
        name = _value(data, STRING)
        if (sizes := _number(data, "<I")) > _MOST_SIZES:
            raise IndexError(sizes)
        shape = tuple(_number(data, "<Q") for _ in range(sizes))
        kind, offset = _number(data, "<I"), _number(data, "<Q")
        try:
            block_sizes(kind)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path} holds tensors of the unknown ggml type {kind}.") from error
        tensors.append(GgufTensor(name, shape, kind, offset))
    unit = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(unit, int) or not 1 <= unit < 2**32:
        raise IndexError(unit)
    start = -(-data.tell() // unit) * unit
    placed = tuple(tensor._replace(offset=start + tensor.offset) for tensor in tensors)
    return GgufHead(metadata, arrays, fields, placed, unit, version)


class Copy(NamedTuple):
    """A matrix of a GGUF file that is left out, because another one holds the same, as finely or more finely."""

    left_out: GgufTensor
    kept: GgufTensor

    def to_dict(self) -> dict[str, Any]:
        return {
            "left_out": f"{self.left_out.name} ({_kind(self.left_out)})",
            "kept": f"{self.kept.name} ({_kind(self.kept)})",
            "bytes": self.left_out.num_bytes,
            "parameters": self.left_out.shape[0] * self.left_out.shape[1],
        }


def find_copied_matrix(path: Path) -> Copy | None:
    """The coarser of head and embeddings, where both are one matrix; ten seconds for 2 x 233 million values."""
    return _find_copy(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=4)
def _find_copy(path: Path, changed: int, size: int) -> Copy | None:
    import numpy as np

    head = read_gguf_head(path)
    tensors = {tensor.name: tensor for tensor in head.tensors}
    embeddings, output = tensors.get(EMBEDDINGS), tensors.get(HEAD)
    if embeddings is None or output is None or embeddings.shape != output.shape:
        return None
    if not {_kind(embeddings), _kind(output)} <= {*_STEPS, *_MANTISSA}:
        return None
    num_rows, num_others, num_zero = embeddings.shape[1], 0, 0
    for begin in range(0, num_rows, _CHUNK):
        count = min(_CHUNK, num_rows - begin)
        (a_ND, a_N), (b_ND, b_N) = (dequantised_rows(path, tensor, begin, count) for tensor in (embeddings, output))
        # Rows that differ by more than rounding explains, and rows of zeros in both.
        is_other_N = np.linalg.norm(a_ND - b_ND, axis=1) > SLACK * np.sqrt(a_N + b_N)
        num_others += int(is_other_N.sum())
        num_zero += int((~a_ND.any(axis=1) & ~b_ND.any(axis=1)).sum())
        if num_others > MOST_OTHERS * num_rows:
            return None
    if num_zero == num_rows or num_others > MOST_OTHERS * (num_rows - num_zero):
        return None
    finer, coarser = (embeddings, output) if embeddings.num_bytes > output.num_bytes else (output, embeddings)
    return Copy(left_out=coarser, kept=finer)


def dequantised_rows(path: Path, tensor: GgufTensor, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, D) in float32, and the sum over each of the expected squared error of rounding, (N,)."""
    import gguf
    import numpy as np

    size = tensor.num_bytes // tensor.shape[1]
    data = np.memmap(path, np.uint8, "r", tensor.offset + begin * size, (count, size))
    rows_ND = gguf.dequantize(np.array(data), gguf.GGMLQuantizationType(tensor.kind)).astype(np.float32)
    kind = _kind(tensor)
    if kind in _MANTISSA:
        return rows_ND, np.square(rows_ND).sum(axis=1) * 2.0 ** (-2 * _MANTISSA[kind]) / 12
    group, levels = _STEPS[kind]
    grouped = rows_ND.reshape(count, -1, group)
    # The larger of the range and twice the largest value over the levels: types with and without a minimum.
    step = np.maximum(grouped.max(-1) - grouped.min(-1), 2 * np.abs(grouped).max(-1)) / (levels - 1)
    return rows_ND, group * np.square(step).sum(axis=1) / 12


def _kind(tensor: GgufTensor) -> str:
    import gguf

    return gguf.GGMLQuantizationType(tensor.kind).name


def describe_copy(copy: Mapping[str, Any]) -> str:
    """The copy that the loading of a GGUF file leaves out, in words."""
    return (
        f"{copy['left_out']} and {copy['kept']} are one matrix: {copy['kept']} is used for both, and parameters and "
        f"bytes are counted without the copy of {copy['bytes'] / 1e6:.0f} MB."
    )
