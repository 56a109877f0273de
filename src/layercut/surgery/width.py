"""The tensors that hold a model's MLP channels: those in which two layouts without memory, of two widths, differ.

Which entries of one belong to one channel (in halves or in pairs) is found by running an MLP of a few channels: with
zeros in the columns of some channels in its last matrix, it must compute the same as without these channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError
from layercut.models.cache import remembered_value
from layercut.models.structure import blueprint_model, config_of, plain_experts, structure_in, with_text_fields
from layercut.surgery.channels import Channels
from layercut.surgery.kinds import CLASS, WEIGHT, Attributes, Setting, attributes_of
from layercut.surgery.quantized import is_quantized
from layercut.surgery.slots import ChannelSlot, MlpWidth, Order, taken_entries, zeroed_entries

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

FIELDS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size",
    "mlp_hidden_size", "d_inner", "dim_feedforward",
)  # fmt: skip
"""Keys of configs that hold the width of an MLP; the first whose change changes the layers counts."""
Slots = tuple[ChannelSlot, ...]
_FEW = 8  # channels of the MLP that is run
_STAY = (0, 3, 4, 6)
_CLOSE = 1e-5


def thin_config(config: Mapping[str, Any], channels: Channels | None) -> dict[str, Any]:
    """The text section of a config with the new width."""
    if channels is None:
        return dict(config)
    return {**config, channels.field: _as_held(config.get(channels.field), channels.num_kept)}


def _as_held(held: Any, width: int) -> Any:
    """A width as a config holds it: a number, or one for each layer."""
    return [width] * len(held) if isinstance(held, list) else width


def mlp_width_of(config: Mapping[str, Any], name: str) -> MlpWidth:
    """The place of the channels in the model that a config.json describes.
    Raises InputError: a quantised model, or structure does not show it; says why.
    """
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
        except (InputError, CheckpointError):
            continue
        changes = [_changes(layer, *pair, new) for layer, pair in enumerate(zip(before, after, strict=True))]
        widths = {change.width for layer in changes for change in layer}
        if len(widths) > 1:
            several = ", ".join(map(str, sorted(widths)))
            raise InputError(f"its MLPs are of different widths ({several}); remove layers.")
        if widths:
            slots = {layer: _slots(own) for layer, own in enumerate(changes) if own}
            return MlpWidth(field, widths.pop(), order_of_entries(config, kind, field, name, slots))
    raise InputError(
        f"{name} has no MLP whose width one field of its config says ({', '.join(FIELDS)}), so its channels cannot be "
        "thinned; remove layers."
    )


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
    try:
        return with_text_fields(whole, {**text.to_dict(), field: _as_held(getattr(text, field, None), width)})
    except CheckpointError as error:
        raise InputError(f"transformers accepts no {name} of {field} {width}: {error}") from error


@lru_cache(maxsize=32)
def _laid_out(config: str, kind: Any, field: str, width: int | None, name: str) -> tuple[Attributes, ...]:
    """The layers of the model at a width; None for its own."""
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
    """The tensors of a layer that are others at the width ``new``.
    Raises InputError: one holds the channels in a way that is not known.
    """
    changes = []
    for (module, name), shape in old.items():
        other = thin.get((module, name), ())
        if not name.startswith(WEIGHT) or shape == other:
            continue
        dims = [dim for dim, (was, now) in enumerate(zip(shape, other, strict=False)) if was != now]
        times = other[dims[0]] // new if dims else 0
        if len(dims) != 1 or len(shape) != len(other) or other[dims[0]] % new or not times or shape[dims[0]] % times:
            raise InputError(
                f"{module} of layer {layer} holds MLP channels in more than one dimension, or not a whole number of "
                "times; layercut cannot thin this model."
            )
        kind, tensor = old[module, CLASS], name.removeprefix(WEIGHT)
        changes.append(_Change(module, kind, tensor, tuple(shape), dims[0], times, shape[dims[0]] // times))
    return changes


def _slots(changes: Sequence[_Change]) -> Slots:
    """The tensors of a layer with the channels; two entries a channel are taken for halves, until it is run.
    Raises InputError: MLPs that are no linear layers, or without one last matrix each.
    """
    # By MLP; the stacked experts of a layer are one of them, by the module that holds them.
    stacked = {change.module: list[_Change]() for change in changes if len(change.shape) == 3}
    linear = [change for change in changes if change.module not in stacked]
    has_one = sum(change.reads for change in linear) == 1
    by_parent: dict[str, list[_Change]] = {}
    for change in changes:
        if change.module in stacked:
            stacked[change.module].append(change)
        elif not change.kind.endswith(("Linear", "Conv1D")) or len(change.shape) > 2:
            raise InputError(
                f"{change.module} is a {change.kind} over MLP channels, and layercut thins MLPs of linear layers and "
                "stacked experts; remove layers."
            )
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
            order: Order = "one" if change.times == times else "halves"
            place = (change.module, change.tensor, change.dim, order, change.reads)
            slots.append(ChannelSlot(*place, first=first, mlps=mlps, is_stacked=is_stacked))
    return tuple(slots)


def order_of_entries(config: str, kind: Any, field: str, name: str, slots: Mapping[int, Slots]) -> dict[int, Slots]:
    """The slots of each layer with the order of two entries a channel, by running one layer of each kind.
    Raises InputError: the channels of an MLP are not independent of each other.
    """
    known: dict[Slots, Slots] = {}
    for layer, own in slots.items():
        if own not in known:
            known[own] = _run_mlp(config, kind, field, name, layer, own)
    return {layer: known[own] for layer, own in slots.items()}


def _run_mlp(config: str, kind: Any, field: str, name: str, layer: int, slots: Slots) -> Slots:
    modules = sorted({slot.module for slot in slots if slot.order != "one"})
    # The module that holds all of them.
    levels = zip(*(slot.module.split(".")[:-1] for slot in slots), strict=False)
    path = ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))
    if not path:
        if modules:
            raise InputError(
                f"the MLP of {name} is no module of its own, so the order of its channels cannot be found."
            )
        return slots
    whole, thin = (_mlp_of(config, kind, field, name, layer, path, width) for width in (_FEW, len(_STAY)))
    orders: tuple[Order, ...] = ("halves", "pairs")
    for chosen in product(orders, repeat=len(modules)):
        order = dict(zip(modules, chosen, strict=True))
        tried = tuple(slot._replace(order=order[slot.module]) if slot.order != "one" else slot for slot in slots)
        difference = _difference(whole, thin, {slot.name.removeprefix(path).lstrip("."): slot for slot in tried})
        if difference is None and not modules:
            return slots  # its call takes more than states; the comparison after a cut remains
        if difference is not None and difference < _CLOSE:
            return tried
    raise InputError(
        f"the MLP channels of {name} depend on each other, so that none can be removed alone; remove layers."
    )


def _mlp_of(config: str, kind: Any, field: str, name: str, layer: int, path: str, width: int) -> nn.Module:
    """One MLP of the model with a few channels and random weights, in float32."""
    import torch

    model = blueprint_model(config_with_width(config, field, width, name), kind, name)
    plain_experts(model)
    stack: Any = model.get_submodule(structure_in(model).layers)
    mlp: nn.Module = stack[layer].get_submodule(path).to_empty(device="cpu").float().eval()
    drawn = torch.Generator().manual_seed(0)
    for parameter in mlp.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn) / parameter.shape[-1] ** 0.5
    for buffer in mlp.buffers():
        buffer.zero_()
    return mlp


def _difference(whole: nn.Module, thin: nn.Module, slots: Mapping[str, ChannelSlot]) -> float | None:
    """Largest difference between the MLP with zeros in the columns of channels and that without the channels, as a
    share of the largest output; None if it does not run on states alone. All that ``thin`` holds is written anew, and
    ``whole`` loses the same columns in every order. ``slots``: by parameter.
    """
    import torch

    channels = range(_FEW * max(slot.first + slot.mlps for slot in slots.values()))
    stay = [channel for channel in channels if channel % _FEW in _STAY]
    gone = [channel for channel in channels if channel % _FEW not in _STAY]
    first, slot = next(item for item in slots.items() if not item[1].reads and not item[1].tensor.endswith("bias"))
    shape = whole.get_parameter(first).shape
    size = shape[len(shape) - 1 - slot.dim + slot.is_stacked]
    states = torch.randn(1, 5, size, generator=torch.Generator().manual_seed(1))
    try:
        with torch.no_grad():
            for name, parameter in whole.named_parameters():
                own, data = slots.get(name), parameter.data
                kept = data if own is None else taken_entries(data, own.dim, own.entries(stay, _FEW))
                thin.get_parameter(name).data = kept
                if own is not None and own.reads:
                    parameter.data = zeroed_entries(data, own.dim, own.entries(gone, _FEW))
            outputs = [mlp(states) for mlp in (whole, thin)]
            # Those of experts may come with the router's numbers.
            masked, cut = (output[0] if isinstance(output, tuple) else output for output in outputs)
    except Exception:  # whatever its code raises on states alone
        return None
    return float((masked - cut).abs().max() / masked.abs().max().clamp(min=1e-9))
