"""The tensors that hold a model's MLP channels, found by structure, and the part of each that stays.

Two layouts without memory, of two widths in the config, differ in just these tensors. What is laid out side by side in
one tensor (gate and up, in halves or in pairs) is found by running an MLP of a few channels: without the columns of a
channel in the last matrix it must compute the same as without the channel. An MLP for which it does not is refused.
"""

# Shapes: C channels of an MLP in the original model.

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from layercut.errors import CheckpointError, InputError, one_line
from layercut.models.structure import SECTIONS, blueprint, config_of, structure_in
from layercut.surgery.channels import Channels
from layercut.surgery.kinds import WEIGHT, Attributes, Setting, attributes_of
from layercut.surgery.quantized import is_quantized

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

FIELDS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "mlp_hidden_size", "d_inner", "dim_feedforward")
"""Keys of configs that hold the width of an MLP; the first whose change changes the layers counts."""
Order = Literal["one", "halves", "pairs"]
_FEW = 8
"""Channels of the MLP that is run."""
_STAY = (0, 3, 4, 6)
_CLOSE = 1e-5


class ChannelSlot(NamedTuple):
    """A tensor of a layer with a dimension for the channels."""

    module: str
    """Path from the layer."""
    tensor: str
    """``weight`` or ``bias``."""
    dim: int
    order: Order
    """``one`` entry a channel; or two, in ``halves`` (all gates, then all ups) or in ``pairs``."""
    reads: bool
    """True for the last matrix, which reads the channels."""

    @property
    def name(self) -> str:
        """From the layer: ``mlp.down_proj.weight``."""
        return f"{self.module}.{self.tensor}"

    def entries(self, channels: Sequence[int], width: int) -> list[int]:
        """The entries along ``dim`` of these channels, of ``width`` in all.

        >>> ChannelSlot("mlp.gate_up", "weight", 0, "halves", False).entries([1, 2], 4)
        [1, 2, 5, 6]
        """
        if self.order == "one":
            return list(channels)
        if self.order == "halves":
            return [*channels, *(width + channel for channel in channels)]
        return [place for channel in channels for place in (2 * channel, 2 * channel + 1)]


class MlpWidth(NamedTuple):
    """The place of the MLP channels in one model."""

    field: str
    """Key of the config."""
    width: int
    slots: Mapping[int, tuple[ChannelSlot, ...]]
    """By layer; layers without such an MLP are not there."""

    def reader(self, layer: int) -> ChannelSlot:
        """The last matrix of a layer's MLP."""
        return next(slot for slot in self.slots[layer] if slot.reads)

    def check(self, channels: Channels) -> None:
        """Raise InputError if the channels are those of another model."""
        if (channels.field, channels.width) != (self.field, self.width) or channels.kept.keys() != self.slots.keys():
            raise InputError(
                f"the plan names MLP channels of {len(channels.kept)} layers with {channels.field} {channels.width}; "
                f"this model has {len(self.slots)} with {self.field} {self.width}. Use a plan made for this very model."
            )


def thin_config(config: Mapping[str, Any], channels: Channels | None) -> dict[str, Any]:
    """The text section of a config with the new width."""
    if channels is None:
        return dict(config)
    held = config.get(channels.field)
    new = [channels.num_kept] * len(held) if isinstance(held, list) else channels.num_kept
    return {**config, channels.field: new}


def mlp_width_of(config: Mapping[str, Any], name: str) -> MlpWidth:
    """The place of the channels in the model that a config.json describes.

    Raises:
        InputError: a quantised model, or structure does not show it; says why.
    """
    return _mlp_width(json.dumps(config, sort_keys=True), None, name)


def mlp_width_in(model: PreTrainedModel) -> MlpWidth:
    """The same of a model in memory."""
    kind: Any = type(model)
    return _mlp_width(json.dumps(model.config.to_dict(), sort_keys=True, default=str), kind, kind.__name__)


def attributes_under(model: PreTrainedModel, channels: Channels) -> tuple[Setting, ...]:
    """Plain attributes of the layers' modules that are other at the new width, with their values."""
    kind: Any = type(model)
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    widths = (None, channels.num_kept)
    before, after = (_laid_out(config, kind, channels.field, width, kind.__name__) for width in widths)
    return tuple(
        Setting(layer, module, name, is_now)
        for layer, (old, new) in enumerate(zip(before, after, strict=True))
        for (module, name), is_now in new.items()
        if not name.startswith(WEIGHT) and old.get((module, name)) != is_now
    )


@lru_cache(maxsize=16)
def _mlp_width(config: str, kind: Any, name: str) -> MlpWidth:
    if is_quantized(json.loads(config)):
        raise InputError(
            f"the MLPs of {name} are quantised and cannot be thinned; thin the original and quantise that."
        )
    before = _laid_out(config, kind, FIELDS[0], None, name)
    for field in FIELDS:
        new = _other_width(config, field, name)
        try:
            after = None if new is None else _laid_out(config, kind, field, new, name)
        except (InputError, CheckpointError):
            continue
        if after is not None and new is not None and (found := _differing(before, after, new)):
            width = found.pop()
            slots = {layer: _slots(old, after[layer], new) for layer, old in enumerate(before)}
            _run_one(config, kind, field, name, slots)
            return MlpWidth(field, width, {layer: of_layer for layer, of_layer in slots.items() if of_layer})
    raise InputError(
        f"{name} has no MLP whose width one field of its config says ({', '.join(FIELDS)}), so its channels cannot be "
        "thinned; remove layers."
    )


def _differing(before: Sequence[Attributes], after: Sequence[Attributes], new: int) -> set[int]:
    """Widths of the original model's MLPs: one, or none where the field changes no tensor.

    Raises:
        InputError: layers of different widths, or tensors with the channels in a way that is not known.
    """
    widths: set[int] = set()
    for layer, (old, thin) in enumerate(zip(before, after, strict=True)):
        for place in old:
            if not place[1].startswith(WEIGHT) or old[place] == thin.get(place):
                continue
            changed = [(was, now) for was, now in zip(old[place], thin.get(place, ()), strict=False) if was != now]
            times = changed[0][1] // new if changed else 0
            if len(changed) != 1 or changed[0][1] % new or times not in (1, 2) or changed[0][0] % times:
                raise InputError(
                    f"{place[0]} of layer {layer} holds MLP channels in more than one dimension, or more than twice; "
                    "layercut cannot thin this model."
                )
            widths.add(changed[0][0] // times)
    if len(widths) > 1:
        raise InputError(f"its MLPs are of different widths ({', '.join(map(str, sorted(widths)))}); remove layers.")
    return widths


def _slots(old: Attributes, new: Attributes, width: int) -> tuple[ChannelSlot, ...]:
    """The tensors of a layer with the channels; two entries a channel are taken for halves, until it is run."""
    slots = []
    for (module, name), shape in old.items():
        if not name.startswith(WEIGHT) or shape == new[module, name]:
            continue
        kind, tensor = old[module, "class"], name.removeprefix(WEIGHT)
        if not kind.endswith(("Linear", "Conv1D")) or len(shape) > 2:
            raise InputError(
                f"{module} is a {kind} over MLP channels, and layercut thins MLPs of linear layers; remove layers."
            )
        dim = next(place for place, (was, now) in enumerate(zip(shape, new[module, name], strict=True)) if was != now)
        # A Conv1D, of gpt2, holds its weight the other way round.
        reads = len(shape) == 2 and (dim == 1) == (kind != "Conv1D")
        order: Order = "one" if new[module, name][dim] == width else "halves"
        slots.append(ChannelSlot(module, tensor, dim, order, reads))
    if slots and sum(slot.reads for slot in slots) != 1:
        raise InputError("a layer reads its MLP channels by more than one matrix, or by none; remove layers.")
    return tuple(slots)


def _run_one(
    config: str,
    kind: Any,
    field: str,
    name: str,
    slots: dict[int, tuple[ChannelSlot, ...]],
) -> None:
    """Run an MLP of a few channels with and without some of them, and note the order of two entries.

    Raises:
        InputError: the channels of the MLP are not independent of each other.
    """
    layer = next(layer for layer, found in slots.items() if found)
    has_two = any(slot.order != "one" for slot in slots[layer])
    path = _common([slot.module for slot in slots[layer]])
    if not path:
        if has_two:
            raise InputError(
                f"the MLP of {name} is no module of its own, so the order of its channels cannot be found."
            )
        return
    orders: tuple[Order, ...] = ("halves", "pairs") if has_two else ("one",)
    for order in orders:
        tried = tuple(slot if slot.order == "one" else slot._replace(order=order) for slot in slots[layer])
        mlp = _few_channels(config, kind, field, name, layer, path)
        difference = _difference(mlp, path, tried)
        if difference is None and not has_two:
            return  # its call takes more than states; the comparison after a cut remains
        if difference is not None and difference < _CLOSE:
            for at, of_layer in slots.items():
                slots[at] = tuple(one if one.order == "one" else one._replace(order=order) for one in of_layer)
            return
    raise InputError(
        f"the MLP channels of {name} depend on each other, so that none can be removed alone; remove layers."
    )


def _few_channels(config: str, kind: Any, field: str, name: str, layer: int, path: str) -> nn.Module:
    """One MLP of the model with a few channels and random weights, in float32."""
    import torch

    model = blueprint(_with_width(config, field, _FEW, name), kind, name)
    stack: Any = model.get_submodule(structure_in(model).layers)
    mlp: nn.Module = stack[layer].get_submodule(path).to_empty(device="cpu").float().eval()
    drawn = torch.Generator().manual_seed(0)
    for parameter in mlp.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn) / parameter.shape[-1] ** 0.5
    for buffer in mlp.buffers():
        buffer.zero_()
    return mlp


def _difference(mlp: nn.Module, path: str, slots: Sequence[ChannelSlot]) -> float | None:
    """Largest difference between the MLP without channels and that with zeros in their columns, as a share of the
    largest output; None if it does not run on states alone.
    """
    import torch

    inside: dict[ChannelSlot, Any] = {
        slot: mlp.get_submodule(slot.module.removeprefix(path).lstrip(".")) for slot in slots
    }
    first = next(slot for slot in slots if not slot.reads and slot.tensor == "weight")
    states = torch.randn(
        1, 5, getattr(inside[first], first.tensor).shape[1 - first.dim], generator=torch.Generator().manual_seed(1)
    )
    gone = [channel for channel in range(_FEW) if channel not in _STAY]
    reader = next(slot for slot in slots if slot.reads)
    try:
        with torch.no_grad():
            weight = inside[reader].weight
            before = weight.data.clone()
            weight.data.index_fill_(reader.dim, torch.tensor(gone), 0.0)
            masked: Any = mlp(states)
            weight.data = before
            for slot, module in inside.items():
                entries = slot.entries(_STAY, _FEW)
                getattr(module, slot.tensor).data = taken(getattr(module, slot.tensor).data, slot.dim, entries)
                _resize(module, slot, len(entries))
            thin: Any = mlp(states)
    except Exception:  # whatever its code raises on states alone
        return None
    masked, thin = (out if isinstance(out, torch.Tensor) else out[0] for out in (masked, thin))
    return float((masked - thin).abs().max() / masked.abs().max().clamp(min=1e-9))


def _resize(module: nn.Module, slot: ChannelSlot, size: int) -> None:
    for name, held in (("in_features", slot.reads), ("out_features", not slot.reads), ("nf", not slot.reads)):
        if held and hasattr(module, name):
            setattr(module, name, size)


def taken(tensor: Tensor, dim: int, entries: Sequence[int]) -> Tensor:
    """The entries of a tensor along one dimension, in memory of its own."""
    import torch

    return tensor.index_select(dim, torch.tensor(entries, device=tensor.device)).contiguous()


def _other_width(config: str, field: str, name: str) -> int | None:
    """A width that the model does not have; None where the field holds none."""
    text = config_of(json.loads(config), name).get_text_config(decoder=True)
    held = getattr(text, field, None)
    if isinstance(held, list) and held and all(one == held[0] for one in held):
        held = held[0]
    if field == "n_inner" and held is None and hasattr(text, field):
        return int(text.hidden_size)
    return held // 2 if isinstance(held, int) and not isinstance(held, bool) and held > 1 else None


@lru_cache(maxsize=32)
def _laid_out(config: str, kind: Any, field: str, width: int | None, name: str) -> tuple[Attributes, ...]:
    """The layers of the model at a width; None for its own."""
    made = config_of(json.loads(config), name) if width is None else _with_width(config, field, width, name)
    model = blueprint(made, kind, name)
    stack: Any = model.get_submodule(structure_in(model).layers)
    return tuple(map(attributes_of, stack))


def _with_width(config: str, field: str, width: int, name: str) -> PretrainedConfig:
    made = copy.deepcopy(config_of(json.loads(config), name))
    text = made.get_text_config(decoder=True)
    held = getattr(text, field, None)
    fields = {**text.to_dict(), field: [width] * len(held) if isinstance(held, list) else width}
    try:
        thin = type(text).from_dict(fields)
    except Exception as error:  # whatever the config class finds wrong
        raise InputError(f"transformers accepts no {name} of {field} {width}: {one_line(error)}") from error
    if text is made:
        return thin
    setattr(made, next(key for key in SECTIONS if getattr(made, key, None) is text), thin)
    return made


def _common(paths: Sequence[str]) -> str:
    """The module that holds all of them."""
    parts = [path.split(".")[:-1] for path in paths]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
