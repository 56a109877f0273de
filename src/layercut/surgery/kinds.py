"""Each layer that stays is compared before and after a cut, on layouts without memory; a difference is refused."""

# Words: "old" indices count in the original model, "new" ones in the pruned model.

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError
from layercut.models.structure import Structure, blueprint_model, structure_in, with_text_fields
from layercut.surgery.config_fields import cut_config
from layercut.surgery.plan import CutPlan
from layercut.text import format_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

Attributes = Mapping[tuple[str, str], Any]  # by module, named from the layer or the model, and attribute
NEUTRAL = frozenset({"training", "store_full_length_kv"})
"""Attributes that may change with the plan: they say what is kept for other layers, not what this one computes."""
POSITIONS = frozenset({"layer_id", "layer_idx", "layer_num", "layer_number", "seed"})
"""Attributes that hold a layer's place in the stack or in the cache, or count from it (big_bird draws by its seed).
Any other number that grows from layer to layer may be part of what the layer computes (beam's residual)."""
_ATTENTION = frozenset({"attention", "full_attention", "sliding_attention", "chunked_attention", "hybrid"})
"""Kinds of layers with attention over cached keys."""
CLASS, WEIGHT, BUFFER = "class", "shape of ", "shape of buffer "


class Setting(NamedTuple):
    """An attribute that follows a plan."""

    layer: int | None  # old index; None for what lies outside of the layers
    module: str  # path from the layer, or from the model
    name: str
    value: Any


class _Model(NamedTuple):
    structure: Structure
    layers: tuple[Attributes, ...]
    rest: Attributes  # of what lies outside of the layers


def check_kinds(before: PretrainedConfig, after: PretrainedConfig, plan: CutPlan) -> None:
    """Refuse a plan under which transformers would build a layer that stays as another one."""
    if not plan.is_uncut:
        _check_attention_stays(before, plan)
        _compared(_model(blueprint_model(before)), _model(blueprint_model(after)), plan)


def settings_under(model_class: type[PreTrainedModel], config: PretrainedConfig, plan: CutPlan) -> tuple[Setting, ...]:
    """The attributes of a model's modules that are other under a plan; refused where a layer would be another one."""
    if plan.is_uncut:
        return ()
    _check_attention_stays(config, plan)
    key = _Key(model_class, json.dumps(config.to_dict(), sort_keys=True, default=str), config)
    return _settings(key, plan.num_layers, frozenset(plan.removed))


def _check_attention_stays(config: PretrainedConfig, plan: CutPlan) -> None:
    """transformers counts the tokens in a cache at an attention layer, so a model that had one needs one."""
    text = config.get_text_config(decoder=True)
    for name in ("layer_types", "layers_block_type"):
        kinds = getattr(text, name, None)
        if not isinstance(kinds, list) or len(kinds) != plan.num_layers:
            continue
        attends = [index for index, kind in enumerate(kinds) if str(kind) in _ATTENTION]
        if attends and len(attends) < plan.num_layers and set(attends) <= set(plan.removed):
            raise InputError(f"no layer with attention would stay ({name}); keep one of {format_layers(attends)}.")


@dataclass(frozen=True)
class _Key:
    """A config as a key of caches."""

    model_class: type[PreTrainedModel]
    text: str
    config: PretrainedConfig = field(compare=False)


@lru_cache(maxsize=1024)
def _settings(key: _Key, num_layers: int, removed: frozenset[int]) -> tuple[Setting, ...]:
    plan = CutPlan(num_layers=num_layers, removed=tuple(sorted(removed)))
    before, positions = _original(key, num_layers)
    if positions is None:
        return _compared(before, _under(key, plan, before.structure), plan)
    return tuple(
        Setting(old, module, name, before.layers[new][module, name])
        for new, old in enumerate(plan.kept)
        if new != old
        for module, name in positions
    )


@lru_cache(maxsize=16)
def _original(key: _Key, num_layers: int) -> tuple[_Model, list[tuple[str, str]] | None]:
    """A model, and the places of its positions where its layers are the same but for these, and nothing outside of them
    changes with their number: then each takes on the positions of the layer whose place it takes.
    """
    before = _model(blueprint_model(key.config, key.model_class))
    first = before.layers[0]
    positions = [place for place in first if any(layer.get(place) != first[place] for layer in before.layers)]
    is_alike = all(layer.keys() == first.keys() for layer in before.layers) and num_layers > 1
    if not is_alike or any(name not in POSITIONS for _, name in positions):
        return before, None
    shorter = _under(key, CutPlan(num_layers=num_layers, removed=(num_layers - 1,)), before.structure)
    return before, None if _outside(before.rest, shorter.rest) else positions


def _compared(before: _Model, after: _Model, plan: CutPlan) -> tuple[Setting, ...]:
    """Positions in the layers as they are in the pruned model, and changes outside of them; others are refused."""
    settings = []
    for new, old in enumerate(plan.kept):
        old_layer, new_layer = before.layers[old], after.layers[new]
        for place in sorted(old_layer.keys() | new_layer.keys(), key=lambda place: (place[1] != CLASS, place)):
            (module, name), was, is_now = place, old_layer.get(place), new_layer.get(place)
            if _are_equal(was, is_now):
                continue
            # A list with an entry for every layer may be cut to those that stay.
            of_all = was if isinstance(was, (list, tuple)) and len(was) == plan.num_layers else ()
            of_kept = [of_all[layer] for layer in plan.kept] if of_all else []
            if name not in POSITIONS | NEUTRAL and not (of_all and is_now in (of_kept, tuple(of_kept))):
                what = f"{module}.{name}" if module else name
                raise InputError(
                    f"layer {old} would change: its {what} is {was!r} and would be {is_now!r} as layer {new} of "
                    f"the pruned model; keep layers 0-{old}."
                )
            settings.append(Setting(old, module, name, is_now))
    return (*settings, *_outside(before.rest, after.rest))


def _under(key: _Key, plan: CutPlan, structure: Structure) -> _Model:
    text = key.config.get_text_config(decoder=True).to_dict()
    cut = with_text_fields(key.config, cut_config(text, plan, structure), "such pruned model")
    return _model(blueprint_model(cut, key.model_class))


def _model(model: PreTrainedModel) -> _Model:
    structure = structure_in(model)
    stack: Any = model.get_submodule(structure.layers)
    inside = {id(part) for layer in stack for part in layer.modules()}
    rest = {
        (path, name): value
        for path, module in model.named_modules()
        if id(module) not in inside
        for name, value in _own(module).items()
    }
    return _Model(structure, tuple(map(attributes_of, stack)), rest)


def attributes_of(layer: nn.Module) -> Attributes:
    """Class, shapes of tensors and plain attributes of a layer's modules."""
    return {(path, name): value for path, module in layer.named_modules() for name, value in _own(module).items()}


def _own(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_plain(value)}
    shapes = {
        f"{kind}{name}": tuple(value.shape)
        for kind, tensors in ((WEIGHT, module._parameters), (BUFFER, module._buffers))
        for name, value in tensors.items()
        if value is not None
    }
    return {CLASS: type(module).__name__, **plain, **shapes}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    return value is None or isinstance(value, (bool, int, float, str))


def _are_equal(was: Any, is_now: Any) -> bool:
    """Whether two attributes are the same; a config that was written as JSON has lists where it had tuples."""
    if isinstance(was, (list, tuple)) and isinstance(is_now, (list, tuple)):
        return len(was) == len(is_now) and all(map(_are_equal, was, is_now))
    return was == is_now or (type(was) is type(is_now) is float and math.isclose(was, is_now, rel_tol=1e-12))


def _outside(before: Attributes, after: Attributes) -> list[Setting]:
    """Changes outside of the layers. Parts of a kind of layer that has none left (its rotary angles) may stay."""
    settings = []
    for place in sorted(before.keys() & after.keys()):
        (module, name), was, is_now = place, before[place], after[place]
        if _are_equal(was, is_now) or name == "training" or name.startswith(BUFFER):
            continue
        if name == CLASS or name.startswith(WEIGHT):
            raise InputError(
                f"{module or 'the model'} holds something for every decoder layer: its {name} is {was} and would be "
                f"{is_now}; such a model cannot be cut yet."
            )
        settings.append(Setting(None, module, name, is_now))
    return settings
