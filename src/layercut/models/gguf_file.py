"""The header of a GGUF file: its metadata, where its tensors lie, and a check that all exist. No tensor is read."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import CheckpointError
from layercut.runs.json_text import parse

MAGIC = b"GGUF"
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's numbers of value types, and how struct reads them."""
STRING, ARRAY = 8, 9
PLAN, EARLIER = "layercut.plan", "layercut.earlier_plans"
"""Keys that hold plan.json, and the plans of earlier cuts, oldest first, as JSON."""
_LONGEST = 10_000
"""Longer arrays (vocabulary, merges) are not decoded. No model has as many layers."""
DEFAULT_ALIGNMENT = 32
_MOST_SIZES = 8
"""Dimensions of a tensor; ggml has 4."""
_TEXTS = ("general.architecture", "general.name", "general.license", "tokenizer.ggml.pre", "tokenizer.ggml.model")
_WHOLE_NUMBERS = ("split.count", ".block_count", ".nextn_predict_layers", "_token_id", "general.alignment")


class GgufField(NamedTuple):
    """One key of the metadata."""

    kind: int
    """Number of the value's type; of an array's entries for an array."""
    length: int | None
    """Entries of an array; None for a single value."""
    begin: int
    """Offset of the key in the file, in bytes."""
    end: int
    """Offset of the value's end, in bytes."""


class GgufTensor(NamedTuple):
    """One tensor and where its bytes lie."""

    name: str
    shape: tuple[int, ...]
    """Innermost dimension first, as ggml has it."""
    kind: int
    """Number of the ggml type, such as 12 for Q4_K."""
    offset: int
    """First byte, counted from the start of the file."""
    num_bytes: int


@dataclass(frozen=True)
class GgufHead:
    """The header of a GGUF file."""

    metadata: Mapping[str, Any]
    """Numbers and strings."""
    arrays: Mapping[str, tuple[Any, ...]]
    """Arrays of up to 10,000 entries: what the file says of each layer, but not a vocabulary."""
    fields: Mapping[str, GgufField]
    """Every key of the metadata, in the file's order."""
    tensors: tuple[GgufTensor, ...]
    alignment: int
    """Each tensor begins at a multiple of it, counted from where the first begins."""
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

    @property
    def num_tensors(self) -> int:
        """Tensors in the file."""
        return len(self.tensors)

    @cached_property
    def num_parameters(self) -> int:
        """Of all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def token_ids(self, *names: str) -> list[int]:
        """Ids of the named special tokens, such as ``eos``, that the file has, without doubles."""
        found = (self.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names)
        return list(dict.fromkeys(int(token) for token in found if token is not None))


def read_gguf_head(path: Path) -> GgufHead:
    """Read a GGUF file's metadata and check that it is whole.

    Raises:
        CheckpointError: no GGUF file, one that is cut short or damaged, an old version, or one part of several.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if (magic := file.read(4)) != MAGIC:
                raise CheckpointError(
                    f"{path} is not a GGUF file (it begins with {magic!r}, not {MAGIC!r}). "
                    "Give a .gguf file, a Hugging Face model folder or a hub id."
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
    if not head.num_tensors:
        raise CheckpointError(f"{path} holds no tensors, only a vocabulary or metadata.")
    end = max(tensor.offset + tensor.num_bytes for tensor in head.tensors)
    if end > (size := path.stat().st_size):
        raise CheckpointError(
            f"{path} is truncated: its header says it has {end:,} bytes, the file has {size:,}; fetch it again."
        )
    return head


def recorded_plans(head: GgufHead) -> list[dict[str, Any]]:
    """The plans by which layercut cut a file, oldest first, as plan.json holds them.

    Raises:
        CheckpointError: something else.
    """
    plans: list[Any] = []
    for key in (EARLIER, PLAN):
        if key in head.metadata:
            try:
                found = parse(head.metadata[key])
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{key} of this GGUF file is not the JSON of a plan ({error}).") from error
            plans += found if isinstance(found, list) else [found]
    if not all(isinstance(plan, dict) for plan in plans):
        raise CheckpointError(f"{PLAN} or {EARLIER} of this GGUF file is not the JSON of a plan.")
    return plans


def block_sizes(kind: int) -> tuple[int, int]:
    """Numbers in a block of a ggml type, which have scales in common, and its bytes; 1 number for float types."""
    import gguf

    block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return block, num_bytes


def tensor_bytes(shape: tuple[int, ...], kind: int) -> int:
    """Bytes of a tensor of a ggml type."""
    block, num_bytes = block_sizes(kind)
    return math.prod(shape) // block * num_bytes


class _Cursor:
    """Reads on from a position. Going past the end is a struct.error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position = data, 0

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(kind, self.data, self.position)
        self.position += struct.calcsize(kind)
        return value

    def skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self.data):
            raise struct.error("past the end")

    def string(self) -> str:
        length = self.number("<Q")
        self.skip(length)
        return bytes(self.data[self.position - length : self.position]).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        inner, count = self.number("<I"), self.number("<Q")
        if inner in SCALARS and count > _LONGEST:
            self.skip(count * struct.calcsize(SCALARS[inner]))
            return None
        if count <= _LONGEST:
            return tuple(self.value(inner) for _ in range(count))
        for _ in range(count):
            self.skip(self.number("<Q")) if inner == STRING else self.value(inner)
        return None

    def field(self) -> tuple[str, GgufField, Any]:
        begin = self.position
        key, kind = self.string(), self.number("<I")
        if kind not in SCALARS and kind not in (STRING, ARRAY):
            raise IndexError(kind)
        count = None
        if kind == ARRAY:
            kind, count = struct.unpack_from("<IQ", self.data, self.position)
            value = self.value(ARRAY)
        else:
            value = self.value(kind)
        return key, GgufField(kind, count, begin, self.position), value


def _read(data: mmap.mmap, path: Path) -> GgufHead:
    cursor = _Cursor(data)
    cursor.skip(len(MAGIC))
    version = cursor.number("<I")
    if version not in (2, 3):
        raise CheckpointError(f"{path} is GGUF version {version}; versions 2 and 3 in little-endian order are read.")
    num_tensors, num_keys = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Any] = {}
    arrays: dict[str, tuple[Any, ...]] = {}
    fields: dict[str, GgufField] = {}
    for _ in range(num_keys):
        key, field, value = cursor.field()
        fields[key] = field
        if value is not None:
            (arrays if field.length is not None else metadata)[key] = value
    tensors = []
    for _ in range(num_tensors):
        name = cursor.string()
        if (sizes := cursor.number("<I")) > _MOST_SIZES:
            raise IndexError(sizes)
        shape = tuple(cursor.number("<Q") for _ in range(sizes))
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        tensors.append(GgufTensor(name, shape, kind, offset, _num_bytes(shape, kind, path)))
    unit = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(unit, int) or not 1 <= unit < 2**32:
        raise IndexError(unit)
    start = -(-cursor.position // unit) * unit
    placed = tuple(one._replace(offset=start + one.offset) for one in tensors)
    return GgufHead(metadata, arrays, fields, placed, unit, version)


def _num_bytes(shape: tuple[int, ...], kind: int, path: Path) -> int:
    try:
        return tensor_bytes(shape, kind)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds tensors of the unknown ggml type {kind}.") from error
