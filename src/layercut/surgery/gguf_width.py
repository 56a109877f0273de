"""The MLP channels of a GGUF file: which tensors hold them, and the bytes of each that stay.

A channel is a row of the first matrices (gate and up), whose bytes are copied, and an entry of each row of the last one
(down). Quantised types hold a row in blocks of 32 or 256 entries with scales in common, so the last matrix is decoded
and quantised again without the channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError
from layercut.models.gguf_file import block_sizes, tensor_bytes
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import CHUNK, read_config, safetensors_files
from layercut.surgery.checkpoint import read_plans
from layercut.surgery.gguf_metadata import block_tensor
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of

if TYPE_CHECKING:
    from layercut.models.gguf_file import GgufHead, GgufTensor
    from layercut.surgery.channels import Channels

LAST = "ffn_down.weight"
FIRST = frozenset({"ffn_gate.weight", "ffn_gate.bias", "ffn_up.weight", "ffn_up.bias"})
_FIELD = "feed_forward_length"
_AGAIN = {**{kind: kind for kind in ("Q4_1", "Q5_0", "Q5_1", "Q8_0")}, "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_ELSE = "Q4_0"
"""Type of a last matrix that is quantised again. The library gguf writes no K-quants; in their place come the types
that llama.cpp takes where a row is not made of whole blocks of 256, but Q4_0 for its IQ4_NL."""
_BLOCK = 32  # entries of a block of all these types; rows that are not made of whole blocks become F16
_SCALE = "scale"  # the seam of `heal` that changes norms
Read = Callable[[int, int], bytes]  # gives bytes of a tensor of the original file: the first one, and how many


class Slices(NamedTuple):
    """Some bytes of each row."""

    num_rows: int
    row_bytes: int
    ranges: tuple[tuple[int, int], ...]

    def chunks(self, read: Read) -> Iterator[bytes]:
        for data in _rows(read, self.num_rows, self.row_bytes):
            starts = range(0, len(data), self.row_bytes)
            yield b"".join(data[at + begin : at + end] for at in starts for begin, end in self.ranges)


class Rows(NamedTuple):
    """Some rows of a table of tokens."""

    row_bytes: int
    rows: tuple[int, ...]  # ascending

    def chunks(self, read: Read) -> Iterator[bytes]:
        most, begin = max(1, CHUNK // self.row_bytes), 0
        while begin < len(self.rows):
            end = begin + 1
            while end < len(self.rows) and end - begin < most and self.rows[end] == self.rows[end - 1] + 1:
                end += 1
            yield read(self.rows[begin] * self.row_bytes, (end - begin) * self.row_bytes)
            begin = end


class Requantised(NamedTuple):
    """Some entries of each row, decoded and quantised again."""

    num_rows: int
    row_bytes: int
    entries: tuple[int, ...]
    before: int  # number of the ggml type of the rows
    after: int  # number of the type that is written

    def chunks(self, read: Read) -> Iterator[bytes]:
        import gguf
        import numpy as np

        for data in _rows(read, self.num_rows, self.row_bytes):
            rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.row_bytes)
            values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(self.before))
            yield _quantised(values[:, list(self.entries)], self.after)


class FromCheckpoint(NamedTuple):
    """A matrix of a checkpoint in place of the original's, quantised."""

    file: Path  # safetensors
    name: str
    after: int  # number of the type that is written

    def chunks(self, read: Read) -> Iterator[bytes]:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:  # type: ignore[no-untyped-call]
            matrix = opened.get_slice(self.name)
            num_rows, width = matrix.get_shape()
            at_once = max(1, CHUNK // (4 * width))
            for row in range(0, num_rows, at_once):
                yield _quantised(matrix[row : row + at_once].float().numpy(), self.after)


Part = Slices | Rows | Requantised | FromCheckpoint
"""The part of a tensor that stays, or what comes in its place; ``chunks`` gives the bytes that are written."""


def _rows(read: Read, num_rows: int, row_bytes: int) -> Iterator[bytes]:
    """Whole rows, as many at once as CHUNK bytes hold."""
    at_once = max(1, CHUNK // row_bytes)
    for row in range(0, num_rows, at_once):
        yield read(row * row_bytes, min(at_once, num_rows - row) * row_bytes)


def _quantised(values: Any, kind: int) -> bytes:
    import gguf
    import numpy as np

    written: Any = gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType(kind))
    return bytes(written.tobytes())


def check_channels(head: GgufHead, channels: Channels) -> None:
    """Raise InputError where a file does not hold the channels of a plan, or holds them in a way that is not known."""
    if max(channels.mlps.values()) > 1:
        raise InputError("the plan thins experts, and layercut thins those of folders; cut the folder and convert it.")
    wanted = dict.fromkeys(channels.kept, channels.width)
    found = {block: tensor.shape[0] for block, name, tensor in _blocks(head) if name == LAST}
    if found != wanted:
        raise InputError(
            f"the plan names MLP channels of {len(wanted)} layers with {channels.width} each, and this file has "
            f"{len(found)} such MLPs, of {', '.join(map(str, sorted(set(found.values())))) or 'no'} channels. Use a "
            "plan made for this very model."
        )
    for block, name, tensor in _blocks(head):
        if block not in wanted or name == LAST or not name.startswith("ffn_"):
            continue
        has_channels = tensor.shape[-1] in (channels.width, 2 * channels.width)
        if has_channels != (name in FIRST):
            raise InputError(
                f"blk.{block}.{name} of the shape {list(tensor.shape)} holds MLP channels in a way that layercut does "
                "not know; cut the model's Hugging Face folder."
            )


def thinned(tensor: GgufTensor, channels: Channels | None) -> tuple[GgufTensor, Part | None]:
    """A tensor without the channels that a plan removes, and where its bytes come from; None where all of it stays."""
    block, name = block_tensor(tensor.name) or (-1, "")
    kept = () if channels is None else channels.kept.get(block, ())
    if channels is None or not kept or name not in {LAST, *FIRST}:
        return tensor, None
    part: Part
    if name in FIRST:
        size = tensor.shape[-1]
        entries = [half + channel for half in range(0, size, channels.width) for channel in kept]
        part = Slices(1, tensor.num_bytes, _byte_ranges(entries, tensor.num_bytes // size))
        return _reshaped(tensor, (*tensor.shape[:-1], len(entries)), tensor.kind), part
    num_rows = tensor.shape[1]
    row_bytes = tensor.num_bytes // num_rows
    kind = _kind_again(tensor.kind, len(kept))
    block_size, each = block_sizes(tensor.kind)
    part = Requantised(num_rows, row_bytes, kept, tensor.kind, kind)
    if block_size == 1:  # floats: nothing is rounded
        part = Slices(num_rows, row_bytes, _byte_ranges(kept, each))
    return _reshaped(tensor, (len(kept), num_rows), kind), part


def _byte_ranges(entries: Iterable[int], each: int) -> tuple[tuple[int, int], ...]:
    return tuple((entry * each, (entry + 1) * each) for entry in entries)


def _reshaped(tensor: GgufTensor, shape: tuple[int, ...], kind: int) -> GgufTensor:
    return tensor._replace(shape=shape, kind=kind, num_bytes=tensor_bytes(shape, kind))


def thin_metadata(head: GgufHead, channels: Channels | None, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of a cut with the new width, which a list names for each layer that has an MLP."""
    key = f"{head.architecture}.{_FIELD}"
    held = changes.get(key, head.arrays.get(key, head.metadata.get(key)))
    if channels is None or held is None:
        return changes
    new = tuple(channels.num_kept if one else one for one in held) if isinstance(held, tuple) else channels.num_kept
    return {**changes, key: new}


def with_matrix(tensor: GgufTensor, file: Path, name: str, width: int) -> tuple[GgufTensor, Part]:
    """A last matrix with the numbers of a checkpoint: the named tensor of a safetensors file, ``width`` a row.

    In 8 bits, where the file has fewer: solved matrices bear rounding badly (docs/how_to/gguf.md).
    """
    import gguf

    is_float = block_sizes(tensor.kind)[0] == 1
    kind = _kind_again(tensor.kind if is_float else int(gguf.GGMLQuantizationType.Q8_0), width)
    return _reshaped(tensor, (width, tensor.shape[1]), kind), FromCheckpoint(file, name, kind)


def requantised(pairs: Iterable[tuple[int, int]]) -> str:
    """A line for people on last matrices by their ggml types before and after; empty where there are none."""
    import gguf

    names = [" to ".join(gguf.GGMLQuantizationType(kind).name for kind in pair) for pair in pairs]
    of_types = ", ".join(f"{count} from {types}" for types, count in sorted(Counter(names).items()))
    return of_types and f"the last matrices of {len(names)} MLPs are quantised again: {of_types}"


def _kind_again(kind: int, width: int) -> int:
    """Type of a last matrix that is written again, with rows of this many numbers."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if block_sizes(kind)[0] == 1:
        return kind
    return int(kinds[_AGAIN.get(kinds(kind).name, _ELSE)] if width % _BLOCK == 0 else kinds.F16)


def _blocks(head: GgufHead) -> Iterator[tuple[int, str, GgufTensor]]:
    """Tensors of blocks: number of the block, name in it."""
    for tensor in head.tensors:
        if (block := block_tensor(tensor.name)) is not None:
            yield *block, tensor


class HealedCut(NamedTuple):
    """What a healed checkpoint adds to the plan that it was cut by."""

    healing: tuple[Mapping[str, Any], ...]  # entries of its plan.json
    matrices: Mapping[int, tuple[Path, str, int]]
    """By layer of the original model, the last matrix of an MLP that healing changed: its safetensors file, its name
    there, and the numbers of a row."""

    @classmethod
    def read(cls, folder: Path, original: Path, plan: CutPlan) -> HealedCut:
        """Compare a healed checkpoint with the original model's folder.
        Raises InputError: it was cut by another plan, in several steps, or healed otherwise.
        """
        import torch

        plans = read_plans(folder)
        healed = [entry for one in plans for entry in one.get("healing", ())]
        methods = {str(entry.get("method")) for entry in healed}
        if len(plans) != 1 or CutPlan.from_dict(plans[0]).key != plan.key:
            raise InputError(f"{folder} was not cut by this plan in one step, so its matrices do not fit the file.")
        if methods != {"seam"}:
            raise InputError(
                f"{folder} was healed by {', '.join(sorted(methods)) or 'nothing'}, and `healed` takes what `heal` "
                "`method` seam solved for; convert the folder with llama.cpp's convert_hf_to_gguf.py."
            )
        if any(entry.get("seam_map") == _SCALE for entry in healed):
            raise InputError(
                f"{folder} was healed by `seam` {_SCALE}, which changes norms, and `healed` takes last matrices; "
                "convert the folder with llama.cpp's convert_hf_to_gguf.py."
            )
        before, after = _Matrices(original), _Matrices(folder)
        changed = {
            old: (*after.place(new), after.mlp.width)
            for new, old in enumerate(plan.kept)
            if old in before.mlp.slots and not torch.equal(after.read(new), before.read(old))
        }
        return cls(tuple(plans[0]["healing"]), changed)


class _Matrices:
    """The last matrices of the MLPs of a folder."""

    def __init__(self, folder: Path) -> None:
        source = ModelSource(name=str(folder), path=folder)
        self._files = safetensors_files(folder)
        self._layers = describe_source(source).structure.layers
        self.mlp = mlp_width_of(read_config(folder), source.name)
        readers = [slot for layer in self.mlp.slots for slot in self.mlp.readers(layer)]
        if len(readers) != len(self.mlp.slots) or any(slot.dim != 1 or slot.is_stacked for slot in readers):
            raise InputError(
                f"{folder} has experts, or keeps its matrices the other way round; convert it with llama.cpp's script."
            )

    def place(self, layer: int) -> tuple[Path, str]:
        """Its safetensors file and its name there."""
        name = f"{self._layers}.{layer}.{self.mlp.readers(layer)[0].name}"
        return self._files[name], name

    def read(self, layer: int) -> Any:
        from safetensors import safe_open

        file, name = self.place(layer)
        with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
            return opened.get_tensor(name)
