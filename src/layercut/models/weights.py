"""Weight files of a checkpoint, read without torch: headers, shards, damage, fingerprint.

A safetensors file is eight bytes (little-endian length of the header), a JSON header that gives each tensor's dtype,
shape and byte range, then the tensors' bytes, without holes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import CheckpointError
from layercut.runs.json_text import load, parse

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PLAN_FILE, EARLIER_PLANS_FILE = "plan.json", "earlier_plans.json"
"""What layercut writes into a checkpoint that it cut: the plan, and those of earlier cuts, oldest first."""
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

_LONGEST_NAME = 255
_MOST_SIZES = 64
"""Dimensions of a tensor; torch has no more."""
_SAMPLES = 4
_SAMPLE_BYTES = 1024
_BOOKKEEPING = frozenset({
    "_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache",
    "architectures",
})  # fmt: skip
"""Keys of config.json that do not change what the model computes in a given dtype."""


class TensorEntry(NamedTuple):
    """The entry of one tensor in a header."""

    dtype: str
    """safetensors' name of it, such as ``BF16``."""
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the header's ``data_offset``."""
    end: int
    """One past the last byte, counted the same way."""

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return self.end - self.begin

    @property
    def num_parameters(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


class TensorSpan(NamedTuple):
    """One tensor of a checkpoint, or of a new one, and where its bytes lie now."""

    name: str
    """Its name in the checkpoint, or in the new one."""
    entry: TensorEntry
    """dtype, shape and size; its byte range is the old one."""
    file: Path
    offset: int
    """First byte, counted from the start of ``file``."""
    part: TensorPart | None = None
    """Part that stays; None for all of it. ``entry`` then has the new shape and size."""

    def taking(self, dim: int, entries: Sequence[int] | Sequence[Sequence[int]]) -> TensorSpan:
        """The same with some entries along one dimension alone; of a stack of tensors each its own."""
        entry, item = self.entry, DTYPE_BITS[self.entry.dtype] // 8
        each = tuple(tuple(one) if isinstance(one, Sequence) else one for one in entries)
        size = len(each[0]) if isinstance(each[0], tuple) else len(each)
        shape = (*entry.shape[:dim], size, *entry.shape[dim + 1 :])
        new = TensorEntry(entry.dtype, shape, entry.begin, entry.begin + math.prod(shape) * item)
        return self._replace(entry=new, part=TensorPart(dim, each, entry.shape))

    def read(self) -> bytes:
        """Bytes of the part that stays."""
        import numpy as np

        part = self.part
        assert part is not None, "whole tensors are copied by ranges"
        item = DTYPE_BITS[self.entry.dtype] // 8
        with self.file.open("rb") as file:
            file.seek(self.offset)
            data = file.read(math.prod(part.shape) * item)
        whole = np.frombuffer(data, np.dtype((np.void, item))).reshape(part.shape)
        if not isinstance(part.entries[0], tuple):
            return bytes(whole.take(part.entries, axis=part.dim).tobytes())
        return b"".join(
            one.take(own, axis=part.dim - 1).tobytes() for one, own in zip(whole, part.entries, strict=True)
        )


class TensorPart(NamedTuple):
    """Entries of a tensor along one dimension."""

    dim: int
    entries: tuple[Any, ...]
    """Numbers, or a tuple of them for each entry of the first dimension."""
    shape: tuple[int, ...]
    """Of the whole tensor."""


class Header(NamedTuple):
    """The header of one safetensors file."""

    tensors: dict[str, TensorEntry]
    """In the order of their bytes."""
    data_offset: int
    """Offset of the tensors' bytes from the start of the file."""
    metadata: dict[str, str]
    """``__metadata__``, such as ``{"format": "pt"}``."""


def read_header(path: Path) -> Header:
    """Header of one safetensors file, with everything checked that can be seen without reading the tensors.

    Raises:
        CheckpointError: no safetensors file, or one that is cut short, too long, or whose byte ranges overlap or leave
            holes.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the weights themselves; run `git lfs pull` in that folder."
                )
            if len(start) < 8 or length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} is not a safetensors file ({size:,} bytes, no valid header length).")
            if 8 + length > size:
                raise _truncated(path, 8 + length, size, "its header alone needs")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    try:
        header = parse(raw)
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ are no texts by name")
        tensors = {name: _entry(value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file (its header cannot be read: {error}).") from error

    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = 0
    for name, entry in tensors.items():
        if entry.dtype not in DTYPE_BITS:
            raise CheckpointError(f"{path}: tensor {name} has the unknown dtype {entry.dtype!r}.")
        if entry.begin != position or entry.num_bytes * 8 != entry.num_parameters * DTYPE_BITS[entry.dtype]:
            raise CheckpointError(
                f"{path}: tensor {name} ({entry.dtype}, shape {list(entry.shape)}) is said to lie at bytes "
                f"{entry.begin}-{entry.end}, which cannot be; the file is damaged, fetch it again."
            )
        position = entry.end
    needed = 8 + length + position
    if needed > size:
        raise _truncated(path, needed, size, "its header says it has")
    if needed < size:
        raise CheckpointError(
            f"{path} is damaged: its header says it has {needed:,} bytes, the file has {size:,}; fetch it again."
        )
    return Header(tensors, 8 + length, metadata)


def safetensors_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor of a checkpoint folder, in one file or in shards with an index.

    Every header is read, so a missing or truncated shard is found here.

    Raises:
        CheckpointError: no safetensors weights, only pickled ones, a missing or damaged file, or an index that does not
            agree with its shards.
    """
    folder = Path(folder)
    if (folder / SINGLE_FILE).is_file():  # as transformers, which prefers it to an index
        return dict.fromkeys(read_header(folder / SINGLE_FILE).tensors, folder / SINGLE_FILE)
    index = folder / INDEX_FILE
    if not index.is_file():
        raise _no_weights(folder)
    try:
        weight_map = read_object(index)["weight_map"]
        files = {str(name): folder / str(file)[:_LONGEST_NAME] for name, file in weight_map.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: no weight_map can be read from it ({error}).") from error
    for shard in sorted(set(files.values())):
        if shard.parent != folder:
            raise CheckpointError(f"{index} names {shard}, which is outside its own folder.")
        if not shard.is_file():
            count = sum(file == shard for file in files.values())
            raise CheckpointError(f"{shard} is missing; {INDEX_FILE} places {count} tensors in it. Fetch it again.")
        present = read_header(shard).tensors
        absent = [name for name, file in files.items() if file == shard and name not in present]
        if absent:
            raise CheckpointError(f"{shard} lacks the tensor {absent[0]}, which {INDEX_FILE} places in it.")
    if not files:
        raise CheckpointError(f"{index} names no tensors.")
    return files


def num_elements(folder: Path) -> int:
    """Elements of all tensors in the weight files."""
    files = set(safetensors_files(folder).values())
    return sum(entry.num_parameters for file in files for entry in read_header(file).tensors.values())


def fingerprint(folder: Path) -> str:
    """SHA-256 (hex) of a checkpoint: same for the same tensors under any sharding, other when a tensor is another.

    Cheap, so not a full checksum: of each tensor, sorted by name, it takes name, dtype, shape and four samples of
    1 KiB spread evenly from the first byte to the last (small tensors whole), then what config.json says of the
    architecture. A change of single weights between the samples goes unseen; training, quantising, merging or cutting
    does not.
    """
    return fingerprint_of(stored_tensors(folder), read_config(folder))


def stored_tensors(folder: Path) -> list[TensorSpan]:
    """The tensors of a checkpoint in the order of their bytes."""
    files = safetensors_files(folder)
    spans = []
    for file in sorted(set(files.values())):
        header = read_header(file)
        spans += [
            TensorSpan(name, entry, file, header.data_offset + entry.begin)
            for name, entry in header.tensors.items()
            if files.get(name) == file
        ]
    return spans


def fingerprint_of(tensors: Iterable[TensorSpan], config: Mapping[str, Any]) -> str:
    """``fingerprint`` of a checkpoint with this config.json that need not be written."""
    digest = hashlib.sha256(b"layercut fingerprint 1\n")
    for tensor in sorted(tensors, key=lambda one: one.name):
        for part in samples_of(tensor):
            digest.update(part)
    digest.update(architecture_of(config).encode())
    return digest.hexdigest()


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture in a config.json, as text."""
    return json.dumps({key: value for key, value in config.items() if key not in _BOOKKEEPING}, sort_keys=True)


def samples_of(tensor: TensorSpan) -> Iterator[bytes]:
    """Name, dtype and shape of a tensor, then four samples of 1 KiB, from the first byte to the last."""
    entry = tensor.entry
    yield json.dumps([tensor.name, entry.dtype, entry.shape]).encode()
    few = range(0, entry.num_bytes, _SAMPLE_BYTES)
    spread = [(entry.num_bytes - _SAMPLE_BYTES) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
    offsets = few if len(few) <= _SAMPLES else spread
    if tensor.part is not None:
        data = tensor.read()
        yield from (data[offset : offset + _SAMPLE_BYTES] for offset in offsets)
        return
    with tensor.file.open("rb", buffering=0) as file:
        for offset in offsets:
            file.seek(tensor.offset + offset)
            yield file.read(min(_SAMPLE_BYTES, entry.num_bytes - offset))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder. Raises CheckpointError: there is none, or it holds no JSON object."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a Hugging Face model folder: it has no config.json.")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A file of a checkpoint that holds a JSON object.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        found = load(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: a JSON object was expected.")
    return found


def _entry(value: dict[str, Any]) -> TensorEntry:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    if (
        not isinstance(value["shape"], list)
        or len(shape) > _MOST_SIZES
        or not all(type(size) is int and 0 <= size < 2**63 for size in (begin, end, *shape))
    ):
        raise ValueError("sizes and offsets must be whole numbers")
    return TensorEntry(str(value["dtype"]), shape, begin, end)


def _truncated(path: Path, needed: int, size: int, says: str) -> CheckpointError:
    return CheckpointError(f"{path} is truncated: {says} {needed:,} bytes, the file has {size:,}; fetch it again.")


def _no_weights(folder: Path) -> CheckpointError:
    """Say what is there instead, and what to do about it."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickled = [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]
    if pickled:
        return CheckpointError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when read; "
            "layercut reads safetensors."
            f" Convert it once: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(NEW_FOLDER)"
        )
    if "adapter_model.safetensors" in names or "adapter_config.json" in names:
        return CheckpointError(
            f"{folder} holds an adapter, not a model; remove its config.json to load it on top of its base model."
        )
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return CheckpointError(
            f"{folder} has no {SINGLE_FILE}; to read its GGUF weights name the file, {folder / gguf[0]}."
        )
    return CheckpointError(f"{folder} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is in it.")
