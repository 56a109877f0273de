"""The tensors that hold a model's MLP channels: those in which two layouts without memory, of two widths, differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError
from layercut.models.cache import remembered_value
from layercut.models.structure import blueprint_model, config_of, structure_in, with_text_fields
from layercut.surgery.channels import Channels
from layercut.surgery.kinds import CLASS, WEIGHT, Attributes, Setting, attributes_of
from layercut.surgery.quantized import is_quantized
from layercut.surgery.slots import ChannelSlot, MlpWidth, Order

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FIELDS = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size",
    "mlp_hidden_size", "d_inner", "dim_feedforward",
)  # fmt: skip
"""Keys of configs that hold the width of an MLP; the first whose change changes the layers counts."""
Slots = tuple[ChannelSlot, ...]
_IN_PAIRS = frozenset({"GptOssExperts"})
"""Classes whose gates and ups lie in pairs, and not in halves. A wrong order is found when a cut is written, by the
comparison with zeros for the removed channels (``verify``)."""


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
        except (InputError, CheckpointError):
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
    try:
        return with_text_fields(whole, {**text.to_dict(), field: _as_held(getattr(text, field, None), width)})
    except CheckpointError as error:
        raise InputError(f"transformers accepts no {name} of {field} {width}: {error}") from error


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


def _slots(changes: Sequence[_Change]) -> Slots:
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
