"""The header of a GGUF file: its metadata, and a check that all tensors exist. No tensor is read."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import CheckpointError

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class GgufHead(NamedTuple):
    """What a GGUF file says of itself."""

    metadata: Mapping[str, Any]
    """Numbers and strings; arrays (the vocabulary, the merges) are left out."""
    num_tensors: int
    num_parameters: int
    """Of all tensors."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family, such as ``llama`` or ``qwen2``."""
        return str(self.metadata["general.architecture"])

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
                head, end = _read(data, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: its header cannot be read; fetch it again.") from error
    if "general.architecture" not in head.metadata:
        raise CheckpointError(f"{path} does not say what architecture it holds; it is no language model in GGUF.")
    if (parts := head.metadata.get("split.count", 1)) > 1:
        raise CheckpointError(f"{path} is one of {parts} parts; join them with `llama-gguf-split --merge` first.")
    if not head.num_tensors:
        raise CheckpointError(f"{path} holds no tensors, only a vocabulary or metadata.")
    if end > (size := path.stat().st_size):
        raise CheckpointError(
            f"{path} is truncated: its header says it has {end:,} bytes, the file has {size:,}; fetch it again."
        )
    return head


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
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
        else:
            for _ in range(count):
                self.skip(self.number("<Q")) if inner == _STRING else self.value(inner)
        return None


def _read(data: mmap.mmap, path: Path) -> tuple[GgufHead, int]:
    """The head, and where the last tensor ends."""
    cursor = _Cursor(data)
    cursor.skip(len(MAGIC))
    version = cursor.number("<I")
    if version not in (2, 3):
        raise CheckpointError(f"{path} is GGUF version {version}; versions 2 and 3 in little-endian order are read.")
    num_tensors, num_keys = cursor.number("<Q"), cursor.number("<Q")
    metadata = {}
    for _ in range(num_keys):
        key, kind = cursor.string(), cursor.number("<I")
        if kind not in _SCALARS and kind not in (_STRING, _ARRAY):
            raise IndexError(kind)
        if (value := cursor.value(kind)) is not None:
            metadata[key] = value
    end = num_parameters = 0
    for _ in range(num_tensors):
        cursor.string()
        shape = [cursor.number("<Q") for _ in range(cursor.number("<I"))]
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        end = max(end, offset + _num_bytes(shape, kind, path))
        num_parameters += math.prod(shape)
    alignment = int(metadata.get("general.alignment", 32))
    return GgufHead(metadata, num_tensors, num_parameters), -(-cursor.position // alignment) * alignment + end


def _num_bytes(shape: list[int], kind: int, path: Path) -> int:
    import gguf

    try:
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds tensors of the unknown ggml type {kind}.") from error
    return math.prod(shape) // block * block_bytes
