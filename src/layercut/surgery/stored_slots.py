"""Which tensors of a checkpoint hold which MLP channels: as in memory, or each expert's matrices by themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.models.structure import Structure, stored_as
from layercut.models.weights import TensorSpan
from layercut.surgery.slots import ChannelSlot
from layercut.surgery.width import MlpWidth

_EXPERT = re.compile(r"\bexperts\.(\d+)\.")
_JOINED = frozenset({"MergeModulelist", "Concatenate"})
"""transformers' operations that make one tensor of what a checkpoint stores: experts stacked, gates and ups joined."""


def stored_slots(
    pieces: Sequence[TensorSpan], mlp: MlpWidth, structure: Structure, config: Mapping[str, Any], name: str
) -> dict[str, tuple[int, ChannelSlot]]:
    """By the names of tensors that hold channels, their layer and their slots.

    Tensors that are stored in a way that is not known, such as transposed, are not among them.
    """
    by_name = {(layer, slot.name): slot for layer, own in mlp.slots.items() for slot in own}
    stored = stored_as(config, name, [piece.name for piece in pieces])
    inside = re.compile(rf"^{re.escape(structure.layers)}\.(\d+)\.(.+)$")
    found = {}
    for piece in pieces:
        match = structure.tensor_pattern.match(piece.name)
        if match is None:
            continue
        slot = by_name.get((int(match[2]), match[3].removeprefix(".")))
        operations: list[str] = []
        if slot is None or slot.is_stacked:
            parameter, operations = stored[piece.name]
            own = inside.match(parameter)
            slot = by_name.get((int(own[1]), own[2])) if own else None
        if slot is not None and _JOINED.issuperset(operations) and (its := _slot_in(piece, slot, mlp.width)):
            found[piece.name] = (int(match[2]), its)
    return found


def _slot_in(piece: TensorSpan, slot: ChannelSlot, width: int) -> ChannelSlot | None:
    """The slot by the shape of what is stored; None where that is no such shape."""
    times = {"one": 1}.get(slot.order, 2)
    shape, expert = piece.entry.shape, _EXPERT.search(piece.name)
    if not slot.is_stacked:
        return slot if shape[slot.dim] == times * slot.mlps * width else None
    if expert is None:
        return slot if len(shape) > slot.dim and shape[slot.dim] == times * width else None
    size = shape[slot.dim - 1] if len(shape) >= slot.dim else 0
    return slot.of_expert(int(expert[1]), is_half=size == width) if size in (width, times * width) else None
