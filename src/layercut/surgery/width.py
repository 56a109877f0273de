"""The tensors that hold a model's MLP channels, found by structure.

Two layouts without memory, of two widths in the config, differ in just these tensors. Which entries of a tensor belong
to one channel is found by running an MLP of a few channels (``width_run``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError
from layercut.models.cache import remembered
from layercut.models.structure import blueprint, config_of, structure_in
from layercut.surgery.channels import Channels
from layercut.surgery.kinds import CLASS, WEIGHT, Attributes, Setting, attributes_of
from layercut.surgery.quantized import is_quantized
from layercut.surgery.slots import ChannelSlot, MlpWidth, Order
from layercut.surgery.width_run import in_order, with_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELDS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size",
    "mlp_hidden_size", "d_inner", "dim_feedforward",
)  # fmt: skip
"""Keys of configs that hold the width of an MLP; the first whose change changes the layers counts."""


def thin_config(config: Mapping[str, Any], channels: Channels | None) -> dict[str, Any]:
    """The text section of a config with the new width."""
    if channels is None:
        return dict(config)
    held = config.get(channels.field)
    new = [channels.num_kept] * len(held) if isinstance(held, list) else channels.num_kept
    return {**config, channels.field: new}


def mlp_width_of(config: Mapping[str, Any], name: str) -> MlpWidth:
    """The place of the channels in the model that a config.json describes.
    Raises InputError: a quantised model, or structure does not show it; says why.
    """
    text = json.dumps(config, sort_keys=True)
    field, width, slots = remembered("widths", text, lambda: _mlp_width(text, None, name))
    return MlpWidth(
        field, width, {int(layer): tuple(ChannelSlot(*slot) for slot in own) for layer, own in slots.items()}
    )


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
        if after is None or new is None:
            continue
        changes = [_changes(layer, *pair, new) for layer, pair in enumerate(zip(before, after, strict=True))]
        widths = {change.width for layer in changes for change in layer}
        if len(widths) > 1:
            several = ", ".join(map(str, sorted(widths)))
            raise InputError(f"its MLPs are of different widths ({several}); remove layers.")
        if widths:
            slots = {layer: _slots(own) for layer, own in enumerate(changes) if own}
            return MlpWidth(field, widths.pop(), in_order(config, kind, field, name, slots))
    raise InputError(
        f"{name} has no MLP whose width one field of its config says ({', '.join(FIELDS)}), so its channels cannot be "
        "thinned; remove layers."
    )


class _Change(NamedTuple):
    """A tensor that has another shape at another width."""

    module: str
    kind: str  # class of the module
    tensor: str
    shape: tuple[int, ...]
    dim: int
    times: int  # entries for each channel of an MLP's width
    width: int


def _changes(layer: int, old: Attributes, thin: Attributes, new: int) -> list[_Change]:
    """The tensors of a layer that are others at the width ``new``.
    Raises InputError: one holds the channels in a way that is not known.
    """
    found = []
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
        found.append(_Change(module, kind, tensor, tuple(shape), dims[0], times, shape[dims[0]] // times))
    return found


def _by_mlp(changes: Sequence[_Change]) -> list[list[_Change]]:
    """The tensors of each MLP of a layer, and of all its stacked experts together."""
    stacked = list(dict.fromkeys(change.module for change in changes if len(change.shape) == 3))
    linear = [change for change in changes if change.module not in stacked]
    for change in linear:
        if not change.kind.endswith(("Linear", "Conv1D")) or len(change.shape) > 2:
            raise InputError(
                f"{change.module} is a {change.kind} over MLP channels, and layercut thins MLPs of linear layers and "
                "stacked experts; remove layers."
            )
    by_parent: dict[str, list[_Change]] = {}
    for change in linear:
        parent = "" if sum(map(_reads, linear)) == 1 else change.module.rpartition(".")[0]
        by_parent.setdefault(parent, []).append(change)
    return [*([change for change in changes if change.module == module] for module in stacked), *by_parent.values()]


def _slots(changes: Sequence[_Change]) -> tuple[ChannelSlot, ...]:
    """The tensors of a layer with the channels; two entries a channel are taken for halves, until it is run.
    Raises InputError: MLPs that are no linear layers, or without one last matrix each.
    """
    slots: list[ChannelSlot] = []
    for tensors in _by_mlp(changes):
        # An MLP may be as wide as several of the config's width, or be stacked experts.
        is_stacked = any(len(change.shape) == 3 for change in tensors)
        readers = [change for change in tensors if _reads(change)]
        sizes = {change.shape[0] for change in tensors} if is_stacked else {change.times for change in readers}
        mlps, times = max(sizes, default=0), 1 if is_stacked else max(sizes, default=0)
        if len(readers) != 1 or len(sizes) != 1 or any(change.times not in (times, 2 * times) for change in tensors):
            raise InputError("a layer reads its MLP channels by more than one matrix, or by none; remove layers.")
        first = max((slot.first + slot.mlps for slot in slots), default=0)
        for change in tensors:
            order: Order = "one" if change.times == times else "halves"
            place = (change.module, change.tensor, change.dim, order, _reads(change))
            slots.append(ChannelSlot(*place, first=first, mlps=mlps, is_stacked=is_stacked))
    return tuple(slots)


def _reads(change: _Change) -> bool:
    """True for a last matrix. Stacked ones may be transposed; transformers names the last one ``down_proj``."""
    if len(change.shape) == 3:
        return change.tensor.startswith("down")
    # A Conv1D, of gpt2, holds its weight the other way round.
    is_matrix = len(change.shape) == 2 and change.kind.endswith(("Linear", "Conv1D"))
    return is_matrix and (change.dim == 1) == (change.kind != "Conv1D")


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
    made = config_of(json.loads(config), name) if width is None else with_width(config, field, width, name)
    model = blueprint(made, kind, name)
    stack: Any = model.get_submodule(structure_in(model).layers)
    return tuple(map(attributes_of, stack))
