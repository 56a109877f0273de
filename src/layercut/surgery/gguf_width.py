"""The MLP channels of a GGUF file: which tensors hold them, and the bytes of each that stay.

A channel is a row of the first matrices (gate and up), whose bytes are copied, and an entry of each row of the last one
(down). Quantised types hold a row in blocks of 32 or 256 entries with scales in common, so the last matrix is decoded
and quantised again without the channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from layercut.errors import InputError
from layercut.surgery.gguf_metadata import block_tensor

if TYPE_CHECKING:
    from layercut.models.gguf_file import GgufHead, GgufTensor
    from layercut.surgery.channels import Channels
    from layercut.surgery.plan import CutPlan

LAST = "ffn_down.weight"
FIRST = frozenset({"ffn_gate.weight", "ffn_gate.bias", "ffn_up.weight", "ffn_up.bias"})
_FIELD = "feed_forward_length"
_AGAIN = {
    "Q4_1": "Q4_1",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q8_0": "Q8_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_ELSE = "Q4_0"
"""Type of a last matrix that is quantised again. The library gguf writes no K-quants; in their place come the types
that llama.cpp takes where a row is not made of whole blocks of 256, but Q4_0 for its IQ4_NL."""
_BLOCK = 32
"""Entries of a block of all these types; rows that are not made of whole blocks become F16."""


class Part(Protocol):
    """The part of a tensor that stays, row by row."""

    @property
    def num_rows(self) -> int: ...

    @property
    def row_bytes(self) -> int:
        """Of one row in the original file."""
        ...

    def stay(self, data: bytes) -> bytes:
        """The bytes of whole rows that are written."""
        ...


class Slices(NamedTuple):
    """Some bytes of each row."""

    num_rows: int
    row_bytes: int
    ranges: tuple[tuple[int, int], ...]

    def stay(self, data: bytes) -> bytes:
        return b"".join(
            data[at + begin : at + end] for at in range(0, len(data), self.row_bytes) for begin, end in self.ranges
        )


class Requantised(NamedTuple):
    """Some entries of each row, decoded and quantised again."""

    num_rows: int
    row_bytes: int
    entries: tuple[int, ...]
    before: int
    """Number of the ggml type of the rows."""
    after: int
    """Number of the type that is written."""

    def stay(self, data: bytes) -> bytes:
        import gguf
        import numpy as np

        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.row_bytes)
        values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(self.before))[:, list(self.entries)]
        written: Any = gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType(self.after))
        return bytes(written.tobytes())


class Thin(NamedTuple):
    """A tensor without the channels that go."""

    shape: tuple[int, ...]
    kind: int
    """Number of its ggml type."""
    num_bytes: int
    part: Part


def check_channels(head: GgufHead, channels: Channels) -> None:
    """Raise InputError where a file does not hold the channels of a plan, or holds them in a way that is not known."""
    wanted = dict.fromkeys(channels.kept, channels.width)
    found = {block: tensor.shape[0] for block, name, tensor in _blocks(head) if name == LAST}
    if found != wanted:
        raise InputError(
            f"the plan names MLP channels of {len(wanted)} layers with {channels.width} each, and this file has "
            f"{len(found)} such MLPs, of {', '.join(map(str, sorted(set(found.values())))) or 'no'} channels. Use a "
            "plan made for this very model."
        )
    for block, name, tensor in _blocks(head):
        if name == LAST or block not in wanted:
            continue
        known = tensor.shape[-1] in (channels.width, 2 * channels.width)
        if known if name not in FIRST and name.startswith("ffn_") else name in FIRST and not known:
            raise InputError(
                f"blk.{block}.{name} of the shape {list(tensor.shape)} holds MLP channels in a way that layercut does "
                "not know; cut the model's Hugging Face folder."
            )


def thinned(tensor: GgufTensor, channels: Channels | None) -> Thin | None:
    """What a plan leaves of a tensor; None where that is all of it."""
    block, name = block_tensor(tensor.name) or (-1, "")
    kept = () if channels is None else channels.kept.get(block, ())
    if channels is None or not kept or name not in {LAST, *FIRST}:
        return None
    if name == LAST:
        return _last(tensor, kept)
    size = tensor.shape[-1]
    each = tensor.num_bytes // size
    entries = [half + channel for half in range(0, size, channels.width) for channel in kept]
    ranges = tuple((entry * each, (entry + 1) * each) for entry in entries)
    part = Slices(1, tensor.num_bytes, ranges)
    return Thin((*tensor.shape[:-1], len(entries)), tensor.kind, each * len(entries), part)


def thin_metadata(head: GgufHead, channels: Channels | None, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of a cut with the new width, which a list names for each layer that has an MLP."""
    key = f"{head.architecture}.{_FIELD}"
    held = changes.get(key, head.arrays.get(key, head.metadata.get(key)))
    if channels is None or held is None:
        return changes
    new = tuple(channels.num_kept if one else one for one in held) if isinstance(held, tuple) else channels.num_kept
    return {**changes, key: new}


def requantised(head: GgufHead, plan: CutPlan) -> str:
    """A line for people on the last matrices whose numbers are rounded again under a plan; empty where none are."""
    import gguf

    counts: Counter[str] = Counter()
    for block, _, tensor in _blocks(head):
        thin = thinned(tensor, plan.channels)
        if thin is not None and isinstance(thin.part, Requantised) and block not in plan.removed:
            before, after = (gguf.GGMLQuantizationType(kind).name for kind in (tensor.kind, thin.kind))
            counts[f"{before} to {after}"] += 1
    of_types = ", ".join(f"{count} from {types}" for types, count in sorted(counts.items()))
    return of_types and f"the last matrices of {counts.total()} MLPs are quantised again: {of_types}"


def _last(tensor: GgufTensor, kept: tuple[int, ...]) -> Thin:
    import gguf

    kinds, sizes = gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES
    num_rows = tensor.shape[1]
    row_bytes = tensor.num_bytes // num_rows
    shape = (len(kept), num_rows)
    if sizes[kinds(tensor.kind)][0] == 1:
        each = row_bytes // tensor.shape[0]
        part = Slices(num_rows, row_bytes, tuple((entry * each, (entry + 1) * each) for entry in kept))
        return Thin(shape, tensor.kind, num_rows * each * len(kept), part)
    kind = kinds[_AGAIN.get(kinds(tensor.kind).name, _ELSE)] if len(kept) % _BLOCK == 0 else kinds.F16
    block, block_bytes = sizes[kind]
    num_bytes = num_rows * (len(kept) // block) * block_bytes
    return Thin(shape, int(kind), num_bytes, Requantised(num_rows, row_bytes, kept, tensor.kind, int(kind)))


def _blocks(head: GgufHead) -> Iterator[tuple[int, str, GgufTensor]]:
    """Tensors of blocks: number of the block, name in it."""
    for tensor in head.tensors:
        if (block := block_tensor(tensor.name)) is not None:
            yield *block, tensor
