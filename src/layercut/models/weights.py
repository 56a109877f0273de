"""Weight files of a checkpoint, read without torch: headers, shards, damage, fingerprint.

A safetensors file is the length of its header (8 bytes), the header in JSON, and the tensors' bytes, without holes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from layercut.errors import CheckpointError, one_line
from layercut.models.structure import Structure, config_text_part
from layercut.runs.json_text import load_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TENSORS_FILE = "layercut_tensors.json"  # dtype and shape of each tensor, in a folder that has no weights
PLAN_FILE, EARLIER_PLANS_FILE = "plan.json", "earlier_plans.json"
"""What layercut writes into a checkpoint that it cut: the plan, and those of earlier cuts, oldest first."""
WEIGHTS = "weights"  # key of a model's origin: the fingerprint of weights that its folder does not hold
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
DTYPE_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # by torch's names, of dtypes to compute in
CHUNK = 2**20  # bytes of a tensor that are read at a time; a fresh block of 16 MiB costs more than its copy
_LONGEST_NAME = 255
_MOST_SIZES = 64  # dimensions of a tensor; torch has no more
_SAMPLES = 4
_SAMPLE_BYTES = 1024
BOOKKEEPING = {
    "_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"
}  # fmt: skip
"""Keys of config.json that do not change what the model computes in a given dtype."""


class TensorSpan(NamedTuple):
    """One tensor of a checkpoint, or of a new one, and where its bytes lie now."""

    name: str  # its name in the checkpoint, or in the new one
    dtype: str  # safetensors' name of it, such as ``BF16``
    shape: tuple[int, ...]
    file: Path
    offset: int  # first byte, counted from the start of ``file``
    part: TensorPart | None = None  # part that stays; None for all of it. ``shape`` is that of the part.

    @property
    def num_parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_parameters * DTYPE_BITS[self.dtype] // 8

    def taking(self, dim: int, entries: Sequence[int] | Sequence[Sequence[int]]) -> TensorSpan:
        """The same with some entries along one dimension alone; of a stack of tensors each its own."""
        each = tuple(tuple(own) if isinstance(own, Sequence) else own for own in entries)
        size = len(each[0]) if isinstance(each[0], tuple) else len(each)
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return self._replace(shape=shape, part=TensorPart(dim, each, self.shape))

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, about ``CHUNK`` at a time. Raises CheckpointError: the file became shorter."""
        if self.part is not None:
            dim, entries, shape = self.part
            stack = entries if isinstance(entries[0], tuple) else (entries,)
            num_rows = math.prod(shape[:dim]) // len(stack)
            item_bytes = math.prod(shape[dim + 1 :]) * DTYPE_BITS[self.dtype] // 8
            layout = (num_rows, shape[dim], item_bytes)
            for place, own in enumerate(stack):
                yield from entry_bytes(self.file, self.offset + place * math.prod(layout), layout, own)
            return
        with self.file.open("rb") as file:
            file.seek(self.offset)
            for done in range(0, self.num_bytes, CHUNK):
                wanted = min(CHUNK, self.num_bytes - done)
                if len(data := file.read(wanted)) < wanted:
                    raise CheckpointError(
                        f"{self.file} became shorter while it was read; leave the model alone until the cut is done."
                    )
                yield data


class TensorPart(NamedTuple):
    """Entries of a tensor along one dimension."""

    dim: int
    entries: tuple[Any, ...]  # numbers, or a tuple of them for each entry of the first dimension
    shape: tuple[int, ...]  # of the whole tensor


def entry_bytes(file: Path, offset: int, layout: tuple[int, int, int], entries: Sequence[int]) -> Iterator[bytes]:
    """Some entries of every row, ``CHUNK`` bytes at a time; ``layout``: rows, entries of a row, bytes of an entry."""
    import numpy as np

    num_rows, size, item_bytes = layout
    whole, places = np.memmap(file, np.dtype((np.void, item_bytes)), "r", offset, (num_rows, size)), np.array(entries)
    rows, few = max(1, CHUNK // (size * item_bytes)), max(1, CHUNK // item_bytes)
    for row in range(0, num_rows, rows):
        for first in range(0, len(places), few):
            yield whole[row : row + rows].take(places[first : first + few], axis=1).tobytes()


class Header(NamedTuple):
    """The header of one safetensors file."""

    tensors: dict[str, TensorSpan]  # in the order of their bytes
    metadata: dict[str, str]  # ``__metadata__``, such as ``{"format": "pt"}``


def read_header(path: Path) -> Header:
    """Header of one safetensors file, which the safetensors library checks. No tensor is read."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            raw = file.read(min(length, MAX_HEADER_BYTES))
        with safe_open(path, "np"):  # type: ignore[no-untyped-call]
            header = json.loads(raw)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    except SafetensorError as error:
        if start == b"version ":
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights themselves; run `git lfs pull` in that folder."
            ) from error
        raise CheckpointError(
            f"{path} is truncated, damaged or no safetensors file ({one_line(error)}; {size:,} bytes); fetch it again."
        ) from error
    metadata = header.pop("__metadata__", None) or {}
    tensors = {
        name: TensorSpan(name, value["dtype"], tuple(value["shape"]), path, 8 + length + value["data_offsets"][0])
        for name, value in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    }
    for name, tensor in tensors.items():
        if len(tensor.shape) > _MOST_SIZES or tensor.dtype not in DTYPE_BITS:
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype} of {len(tensor.shape)} dimensions, unknown to torch."
            )
    return Header(tensors, metadata)


def stored_tensors(folder: Path) -> list[TensorSpan]:
    """The tensors of a checkpoint folder, in one file or in shards with an index, in the order of their bytes."""
    folder = Path(folder)
    if (folder / SINGLE_FILE).is_file():  # as transformers, which prefers it to an index
        return [*read_header(folder / SINGLE_FILE).tensors.values()]
    if (listed := folder / TENSORS_FILE).is_file():
        shapes = read_object(listed).items()
        return [TensorSpan(name, dtype, tuple(shape), folder / SINGLE_FILE, 0) for name, (dtype, shape) in shapes]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise _no_weights(folder)
    try:
        weight_map = read_object(index)["weight_map"]
        files = {str(name): folder / str(file)[:_LONGEST_NAME] for name, file in weight_map.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: no weight_map can be read from it ({error}).") from error
    tensors = []
    for shard in sorted(set(files.values())):
        names = {name for name, file in files.items() if file == shard}
        if shard.parent != folder:
            raise CheckpointError(f"{index} names {shard}, which is outside its own folder.")
        if not shard.is_file():
            raise CheckpointError(
                f"{shard} is missing; {INDEX_FILE} places {len(names)} tensors in it. Fetch it again."
            )
        present = [tensor for name, tensor in read_header(shard).tensors.items() if name in names]
        if absent := names - {tensor.name for tensor in present}:
            raise CheckpointError(f"{shard} lacks the tensor {min(absent)}, which {INDEX_FILE} places in it.")
        tensors += present
    if not tensors:
        raise CheckpointError(f"{index} names no tensors.")
    return tensors


def safetensors_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor of a checkpoint folder. Raises as ``stored_tensors``."""
    return {tensor.name: tensor.file for tensor in stored_tensors(folder)}


def num_elements(folder: Path) -> int:
    """Of all tensors in the weight files."""
    return sum(tensor.num_parameters for tensor in stored_tensors(folder))


def fingerprint_weights(folder: Path) -> str:
    """SHA-256 (hex) of a checkpoint: same for the same tensors under any sharding, other when a tensor is another.

    Cheap, so not a full checksum: of each tensor, sorted by name, it takes name, dtype, shape and four samples of
    1 KiB spread evenly from the first byte to the last (small tensors whole), then what config.json says of the
    architecture. A change of single weights between the samples goes unseen; training, quantising, merging or cutting
    does not.
    """
    return fingerprint_of(stored_tensors(folder), read_config(folder))


def read_bytes(tensor: TensorSpan, offset: int, count: int) -> bytes:
    """Bytes of a whole tensor; ``offset`` is counted from its first."""
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.offset + offset)
        return file.read(count)


def fingerprint_of(
    tensors: Iterable[TensorSpan],
    config: Mapping[str, Any],
    read: Callable[[TensorSpan, int, int], bytes] = read_bytes,
) -> str:
    """``fingerprint_weights`` of these whole tensors with this config.json."""
    digest = hashlib.sha256(b"layercut fingerprint 1\n")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
        few = range(0, tensor.num_bytes, _SAMPLE_BYTES)
        spread = [(tensor.num_bytes - _SAMPLE_BYTES) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
        offsets = few if len(few) <= _SAMPLES else spread
        for offset in offsets:
            digest.update(read(tensor, offset, min(_SAMPLE_BYTES, tensor.num_bytes - offset)))
    architecture = {key: value for key, value in config.items() if key not in BOOKKEEPING}
    digest.update(json.dumps(architecture, sort_keys=True).encode())
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder. Raises CheckpointError: there is none, or it holds no JSON object."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a Hugging Face model folder: it has no config.json.")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A file of a checkpoint that holds a JSON object."""
    try:
        value = load_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: a JSON object was expected.")
    return value


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
        return DTYPE_BYTES[dtype] * self.parameters if dtype in DTYPE_BYTES else self.stored_bytes


def weight_counts(folder: Path, num_layers: int, structure: Structure) -> WeightCounts:
    """Counts of a checkpoint on disk."""
    tensors, config = stored_tensors(folder), config_text_part(read_config(folder))
    layers = [tensor for tensor in tensors if structure.tensor_pattern.match(tensor.name)]
    return WeightCounts(
        parameters=sum(tensor.num_parameters for tensor in tensors),
        stored_bytes=sum(tensor.num_bytes for tensor in tensors),
        in_layers=sum(tensor.num_parameters for tensor in layers),
        of_adapters=sum(sum(tensor.shape) for tensor in layers if len(tensor.shape) == 2),
        num_layers=num_layers,
        hidden_size=config.get("hidden_size") or config.get("n_embd") or 0,
        vocabulary=config.get("vocab_size", 0),
    )


def cached_values(folder: Path) -> int:
    """Numbers that keys and values of one token are, in one layer."""
    config = config_text_part(read_config(folder))
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    return int(2 * (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads))


def pickled_only(model: object, file: str) -> str:
    """The line for a folder or repository whose weights are pickled."""
    return (
        f"{model} has only pickled weights ({file}), which can run code when read; layercut reads safetensors. Convert "
        f"it once: AutoModelForCausalLM.from_pretrained({str(model)!r}).save_pretrained(NEW_FOLDER)"
    )


def _no_weights(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if pickled := [name for name in names if name.startswith("pytorch_model") and name.endswith(".bin")]:
        return CheckpointError(pickled_only(folder, pickled[0]))
    held = [name for name in names if name.endswith((".gguf", ".safetensors"))]
    other = f"; it holds {held[0]}, which is another format" if held else ""
    return CheckpointError(f"{folder} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is in it{other}.")
