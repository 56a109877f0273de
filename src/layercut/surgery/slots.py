"""Slots: the tensors of a layer with a dimension for MLP channels, and which entries of each belong to which channels.

The channels of a layer have one numbering: those of its first MLP, then those of the next. Most layers have one MLP. A
mixture of experts has one for each expert, all in one stacked tensor, and its shared experts are further ones.
"""

# Shapes: E experts, C channels of an MLP, D hidden size.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

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


def taken(tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """The entries of a tensor along one dimension, in memory of its own."""
    import torch

    index = torch.tensor(entries, device=tensor.device)
    if index.dim() == 1:
        return tensor.index_select(dim, index).contiguous()
    return torch.stack([one.index_select(dim - 1, own) for one, own in zip(tensor, index, strict=True)])


def zeroed(tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """A copy of a tensor with zeros in these entries along one dimension."""
    import torch

    index = torch.tensor(entries, device=tensor.device)
    if index.dim() == 1:
        return tensor.index_fill(dim, index, 0.0)
    return torch.stack([one.index_fill(dim - 1, own, 0.0) for one, own in zip(tensor, index, strict=True)])
