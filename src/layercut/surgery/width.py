"""The tensors that hold a model's MLP channels, and which of their entries belong to which; experts are numbered on.

They are those in which two layouts without memory, of two widths, differ. A slot is one of them.
"""

# Shapes: E experts, C channels of an MLP, D hidden size.

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from layercut.errors import InputError
from layercut.models.cache import remembered_value
from layercut.models.structure import (
    Structure,
    blueprint_model,
    config_of,
    stored_names_of,
    structure_in,
    with_text_fields,
)
from layercut.models.weights import TensorSpan
from layercut.surgery.channels import EXPERT_BLOCK, Channels, num_kept
from layercut.surgery.config_fields import is_quantized
from layercut.surgery.kinds import CLASS, WEIGHT, Attributes, Setting, attributes_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

FIELDS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size",
    "mlp_hidden_size", "d_inner", "dim_feedforward",
)  # fmt: skip
"""Keys of configs that hold the width of an MLP; the first whose change changes the layers counts."""
_IN_PAIRS = frozenset({"GptOssExperts"})
"""Classes whose gates and ups lie in pairs, and not in halves. A wrong order is found when a cut is written, by the
comparison with zeros for the removed channels (``verify``)."""
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


def map_entries(change: Callable[..., Tensor], tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """A tensor changed at entries along one dimension, such as by ``torch.index_select``; of a stack each its own."""
    import torch

    index = torch.tensor(entries, device=tensor.device)
    if index.dim() == 1:
        return change(tensor, dim, index)
    return torch.stack([change(matrix, dim - 1, own) for matrix, own in zip(tensor, index, strict=True)])


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
    shape, expert = piece.shape, _EXPERT.search(piece.name)
    if not slot.is_stacked:
        return slot if shape[slot.dim] == times * slot.mlps * width else None
    if expert is None:
        return slot if len(shape) > slot.dim and shape[slot.dim] == times * width else None
    size = shape[slot.dim - 1] if len(shape) >= slot.dim else 0
    return slot.of_expert(int(expert[1]), is_half=size == width) if size in (width, times * width) else None


def thin_config(config: Mapping[str, Any], channels: Channels | None) -> dict[str, Any]:
    """The text section of a config with the new width."""
    if channels is None:
        return dict(config)
    return {**config, channels.field: _as_held(config.get(channels.field), channels.num_kept)}


def _as_held(held: Any, width: int) -> Any:
    """A width as a config holds it: a number, or one for each layer."""
    return [width] * len(held) if isinstance(held, list) else width


def mlp_width_of(config: Mapping[str, Any], name: str) -> MlpWidth:
    """The place of the channels in the model that a config.json describes; refused where structure does not show it."""
    text = json.dumps(config, sort_keys=True)
    field, width, slots = remembered_value("widths", text, lambda: _mlp_width(text, None, name))
    return MlpWidth(
        field, width, {int(layer): tuple(ChannelSlot(*slot) for slot in own) for layer, own in slots.items()}
    )


def mlp_width_in(model: PreTrainedModel) -> MlpWidth:
    """The same of a model in memory."""
    return _mlp_width(*_config_and_class(model), type(model).__name__)


def attributes_under(model: PreTrainedModel, channels: Channels) -> tuple[Setting, ...]:
    """Plain attributes of the layers' modules that are other at the new width, with their values."""
    before, after = (
        _laid_out(*_config_and_class(model), channels.field, width, type(model).__name__)
        for width in (None, channels.num_kept)
    )
    return tuple(
        Setting(layer, module, name, is_now)
        for layer, (old, new) in enumerate(zip(before, after, strict=True))
        for (module, name), is_now in new.items()
        if not name.startswith(WEIGHT) and old.get((module, name)) != is_now
    )


def _config_and_class(model: PreTrainedModel) -> tuple[str, Any]:
    return json.dumps(model.config.to_dict(), sort_keys=True, default=str), type(model)


@lru_cache(maxsize=16)
def _mlp_width(config: str, kind: Any, name: str) -> MlpWidth:
    if is_quantized(json.loads(config)):
        raise InputError(
            f"the MLPs of {name} are quantised and cannot be thinned; thin the original and quantise that."
        )
    before = _laid_out(config, kind, FIELDS[0], None, name)
    for field in FIELDS:
        if (new := _other_width(config, field, name)) is None:
            continue
        try:
            after = _laid_out(config, kind, field, new, name)
        except InputError:
            continue
        changes = [_changes(layer, *pair, new) for layer, pair in enumerate(zip(before, after, strict=True))]
        widths = {change.width for layer in changes for change in layer}
        if len(widths) > 1:
            several = ", ".join(map(str, sorted(widths)))
            raise InputError(f"its MLPs are of different widths ({several}); remove layers.")
        if widths:
            slots = {layer: _slots(own) for layer, own in enumerate(changes) if own}
            return MlpWidth(field, widths.pop(), slots)
    raise InputError(f"{name} has no MLP whose width one field says ({', '.join(FIELDS)}); remove layers.")


def _other_width(config: str, field: str, name: str) -> int | None:
    """A width that the model does not have; None where the field holds none."""
    text = config_of(json.loads(config), name).get_text_config(decoder=True)
    held = getattr(text, field, None)
    if isinstance(held, list) and held and all(width == held[0] for width in held):
        held = held[0]
    if field == "n_inner" and held is None and hasattr(text, field):
        return int(text.hidden_size)
    return held // 2 if isinstance(held, int) and not isinstance(held, bool) and held > 1 else None


def config_with_width(config: str, field: str, width: int, name: str) -> PretrainedConfig:
    """The config of the model with another width of its MLPs. InputError: transformers accepts none such."""
    whole = config_of(json.loads(config), name)
    text = whole.get_text_config(decoder=True)
    fields = {**text.to_dict(), field: _as_held(getattr(text, field, None), width)}
    return with_text_fields(whole, fields, f"{name} of {field} {width}")


@lru_cache(maxsize=32)
def _laid_out(config: str, kind: Any, field: str, width: int | None, name: str) -> tuple[Attributes, ...]:
    made = config_of(json.loads(config), name) if width is None else config_with_width(config, field, width, name)
    model = blueprint_model(made, kind, name)
    stack: Any = model.get_submodule(structure_in(model).layers)
    return tuple(map(attributes_of, stack))


class _Change(NamedTuple):
    """A tensor that has another shape at another width."""

    module: str
    kind: str  # class of the module
    tensor: str
    shape: tuple[int, ...]
    dim: int
    times: int  # entries for each channel of an MLP's width
    width: int

    @property
    def reads(self) -> bool:
        """True for a last matrix. Stacked ones may be transposed; transformers names the last one ``down_proj``."""
        if len(self.shape) == 3:
            return self.tensor.startswith("down")
        # A Conv1D, of gpt2, holds its weight the other way round.
        is_matrix = len(self.shape) == 2 and self.kind.endswith(("Linear", "Conv1D"))
        return is_matrix and (self.dim == 1) == (self.kind != "Conv1D")


def _changes(layer: int, old: Attributes, thin: Attributes, new: int) -> list[_Change]:
    changes = []
    for (module, name), shape in old.items():
        other = thin.get((module, name), ())
        if not name.startswith(WEIGHT) or shape == other:
            continue
        dims = [dim for dim, (was, now) in enumerate(zip(shape, other, strict=False)) if was != now]
        times = other[dims[0]] // new if dims else 0
        if len(dims) != 1 or len(shape) != len(other) or other[dims[0]] % new or not times or shape[dims[0]] % times:
            raise InputError(f"{module} of layer {layer} holds MLP channels in an unknown way; remove layers.")
        kind, tensor = old[module, CLASS], name.removeprefix(WEIGHT)
        changes.append(_Change(module, kind, tensor, tuple(shape), dims[0], times, shape[dims[0]] // times))
    return changes


def _slots(changes: Sequence[_Change]) -> tuple[ChannelSlot, ...]:
    # By MLP; the stacked experts of a layer are one of them, by the module that holds them.
    stacked = {change.module: list[_Change]() for change in changes if len(change.shape) == 3}
    linear = [change for change in changes if change.module not in stacked]
    has_one = sum(change.reads for change in linear) == 1
    by_parent: dict[str, list[_Change]] = {}
    for change in changes:
        if change.module in stacked:
            stacked[change.module].append(change)
        elif not change.kind.endswith(("Linear", "Conv1D")) or len(change.shape) > 2:
            raise InputError(f"{change.module} is a {change.kind}, which cannot be thinned; remove layers.")
        else:
            by_parent.setdefault("" if has_one else change.module.rpartition(".")[0], []).append(change)
    slots: list[ChannelSlot] = []
    for tensors in (*stacked.values(), *by_parent.values()):
        # An MLP may be as wide as several of the config's width, or be stacked experts.
        is_stacked = any(len(change.shape) == 3 for change in tensors)
        readers = [change for change in tensors if change.reads]
        sizes = {change.shape[0] for change in tensors} if is_stacked else {change.times for change in readers}
        mlps, times = max(sizes, default=0), 1 if is_stacked else max(sizes, default=0)
        if len(readers) != 1 or len(sizes) != 1 or any(change.times not in (times, 2 * times) for change in tensors):
            raise InputError("a layer reads its MLP channels by more than one matrix, or by none; remove layers.")
        first = max((slot.first + slot.mlps for slot in slots), default=0)
        for change in tensors:
            order: Order = "one" if change.times == times else "pairs" if change.kind in _IN_PAIRS else "halves"
            place = (change.module, change.tensor, change.dim, order, change.reads)
            slots.append(ChannelSlot(*place, first=first, mlps=mlps, is_stacked=is_stacked))
    return tuple(slots)
