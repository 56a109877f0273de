"""Slots: tensors with a dimension for MLP channels, and which entries belong to which; experts are numbered on."""

# Shapes: E experts, C channels of an MLP, D hidden size.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from layercut.errors import InputError
from layercut.models.structure import Structure, stored_names_of
from layercut.models.weights import TensorSpan
from layercut.surgery.channels import EXPERT_BLOCK, Channels, num_kept

if TYPE_CHECKING:
    from torch import Tensor

_EXPERT = re.compile(r"\bexperts\.(\d+)\.")
_JOINED = frozenset({"MergeModulelist", "Concatenate"})
"""transformers' operations that make one tensor of what a checkpoint stores: experts stacked, gates and ups joined."""
Order = Literal["one", "halves", "pairs"]
Entries = Sequence[int] | Sequence[Sequence[int]]
"""Places along one dimension; of a stacked tensor a list for each expert, all of one length."""


class ChannelSlot(NamedTuple):
    """A tensor of a layer with a dimension for the channels."""

    module: str  # path from the layer
    tensor: str  # ``weight`` or ``bias``; a stacked tensor has a name of its own
    dim: int
    order: Order  # ``one`` entry a channel; or two, in ``halves`` (all gates, then all ups) or in ``pairs``
    reads: bool  # True for a last matrix, which reads the channels
    first: int = 0  # number of the first MLP whose channels it holds
    mlps: int = 1  # MLPs whose channels it holds
    is_stacked: bool = False  # True if its first dimension counts the MLPs: experts, (E, C, D) or (E, D, C)

    @property
    def name(self) -> str:
        """From the layer: ``mlp.down_proj.weight``."""
        return f"{self.module}.{self.tensor}"

    def entries(self, channels: Sequence[int], width: int) -> Entries:
        """The entries along ``dim`` of those of the layer's channels that it holds; an MLP has ``width`` of them.

        >>> ChannelSlot("mlp.gate_up", "weight", 0, "halves", False).entries([1, 2], 4)
        [1, 2, 5, 6]
        >>> ChannelSlot("mlp.experts", "down_proj", 2, "one", True, mlps=2, is_stacked=True).entries([0, 1, 5, 6], 4)
        [[0, 1], [1, 2]]
        """
        if not self.is_stacked:
            begin, size = self.first * width, self.mlps * width
            return self._places([channel - begin for channel in channels if 0 <= channel - begin < size], size)
        by_expert: list[list[int]] = [[] for _ in range(self.mlps)]
        for channel in channels:
            if self.first <= channel // width < self.first + self.mlps:
                by_expert[channel // width - self.first].append(channel % width)
        return [self._places(few, width) for few in by_expert]

    def of_expert(self, index: int, *, is_half: bool) -> ChannelSlot:
        """The slot of one expert's own tensor, as checkpoints store it; gates and ups may be tensors of their own."""
        return self._replace(
            dim=self.dim - 1, first=self.first + index, mlps=1, is_stacked=False, order="one" if is_half else self.order
        )

    def _places(self, channels: Sequence[int], size: int) -> list[int]:
        if self.order == "one":
            return list(channels)
        if self.order == "halves":
            return [*channels, *(size + channel for channel in channels)]
        return [place for channel in channels for place in (2 * channel, 2 * channel + 1)]


class MlpWidth(NamedTuple):
    """The place of the MLP channels in one model."""

    field: str  # key of the config
    width: int
    slots: Mapping[int, tuple[ChannelSlot, ...]]  # by layer; layers without such an MLP are not there

    def readers(self, layer: int) -> tuple[ChannelSlot, ...]:
        """The last matrices of a layer's MLPs; those of experts are one slot."""
        return tuple(slot for slot in self.slots[layer] if slot.reads)

    def mlps(self, layer: int) -> int:
        return max(slot.first + slot.mlps for slot in self.slots[layer])

    @property
    def has_stacked_experts(self) -> bool:
        return any(slot.is_stacked for slots in self.slots.values() for slot in slots)

    def num_kept(self, share: float) -> int:
        """Channels that stay in each MLP if about ``share`` of them goes. InputError: a share that leaves none."""
        return num_kept(self.width, share, least_block=EXPERT_BLOCK if self.has_stacked_experts else 1)

    def first_channels(self, number: int) -> Channels:
        """The first ones of each MLP, for what depends on their number alone, such as times."""
        kept = {
            layer: tuple(mlp * self.width + channel for mlp in range(self.mlps(layer)) for channel in range(number))
            for layer in self.slots
        }
        return Channels(field=self.field, width=self.width, kept=kept)

    def check(self, channels: Channels) -> None:
        """Raise InputError if the channels are those of another model, or its experts cannot be as wide."""
        mlps = {layer: self.mlps(layer) for layer in self.slots}
        if (channels.field, channels.width, channels.mlps) != (self.field, self.width, mlps):
            raise InputError(
                f"the plan names MLP channels of {len(channels.kept)} layers with {channels.field} {channels.width}; "
                f"this model has {len(self.slots)} with {self.field} {self.width}. Use a plan made for this very model."
            )
        if self.has_stacked_experts and channels.num_kept % EXPERT_BLOCK:
            raise InputError(
                f"the plan keeps {channels.num_kept} MLP channels of each expert, and torch multiplies stacked experts "
                f"only where that is a multiple of {EXPERT_BLOCK}; make the plan again with layercut select."
            )


def taken_entries(tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """The entries of a tensor along one dimension, in memory of its own."""
    import torch

    index = torch.tensor(entries, device=tensor.device)
    if index.dim() == 1:
        return tensor.index_select(dim, index).contiguous()
    return torch.stack([matrix.index_select(dim - 1, own) for matrix, own in zip(tensor, index, strict=True)])


def zeroed_entries(tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """A copy of a tensor with zeros in these entries along one dimension."""
    import torch

    index = torch.tensor(entries, device=tensor.device)
    if index.dim() == 1:
        return tensor.index_fill(dim, index, 0.0)
    return torch.stack([matrix.index_fill(dim - 1, own, 0.0) for matrix, own in zip(tensor, index, strict=True)])


def stored_slots(
    pieces: Sequence[TensorSpan], mlp: MlpWidth, structure: Structure, config: Mapping[str, Any], name: str
) -> dict[str, tuple[int, ChannelSlot]]:
    """By the names of a checkpoint's tensors that hold channels, their layer and slot; none of an unknown way."""
    by_parameter = {
        f"{structure.layers}.{layer}.{slot.name}": (layer, slot) for layer, own in mlp.slots.items() for slot in own
    }
    slots = {}
    stored = stored_names_of(config, name, [piece.name for piece in pieces])
    for piece in pieces:
        parameter, operations = stored[piece.name]
        layer, slot = by_parameter.get(parameter, (0, None))
        if slot is not None and _JOINED.issuperset(operations) and (fitting := _slot_in(piece, slot, mlp.width)):
            slots[piece.name] = (layer, fitting)
    return slots


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
