"""Remove decoder layers and MLP channels from a model in memory, permanently or for a while.

The stack is sliced, what stays is renumbered, and the config says what is there. An identity module in the place of
layer 0 looks simpler and is wrong: the cache reads its length from layer 0, which then never gets keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from layercut.errors import InputError
from layercut.models.structure import language_configs, structure_in, text_config_of
from layercut.surgery.channels import Vocabulary
from layercut.surgery.config_fields import LayerNumbers, cut_config, follow_config
from layercut.surgery.kinds import Setting, settings_under
from layercut.surgery.plan import CutPlan, as_cut_plan
from layercut.surgery.width import attributes_under, map_entries, mlp_width_in, thin_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ACTIVE = "_layercut_bypass"  # attribute of a model that is under a bypass: the plan
_checked: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
_thinned: WeakKeyDictionary[nn.Module, dict[tuple[str, int, str], tuple[nn.Parameter, int, nn.Parameter]]]
_thinned = WeakKeyDictionary()
"""Of each model the tensors of its last plan with MLP channels, beside the whole tensor and its version."""
_MISSING = object()
_OVERRIDES = "_heterogeneity_spec"  # attribute of a config in which layers have values of their own


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder layers. Raises InputError: the model has no one list of decoder layers."""
    layers: Any = model.get_submodule(structure_in(model).layers)
    return layers  # type: ignore[no-any-return]


def remove_layers(model: PreTrainedModel, plan: CutPlan | str | Sequence[int]) -> PreTrainedModel:
    """Remove the plan's layers from ``model`` in place, mend its config, and return it. An empty plan changes nothing.
    The plan may be given as layers: ``remove_layers(model, "24-26")``.

    Raises InputError: the plan does not fit the model, or a bypass is active on it.
    """
    apply_plan_to_model(model, plan).pop_all()  # what would undo it is let go, and the removed layers with it
    _thinned.pop(model, None)
    return model


def apply_plan_to_model(model: PreTrainedModel, plan: CutPlan | str | Sequence[int]) -> ExitStack:
    """Make ``model`` consist of the layers that stay. Closing what comes back undoes it, in reverse order."""
    from transformers import PreTrainedModel
    from transformers.utils.output_capturing import maybe_install_capturing_hooks

    if getattr(model, ACTIVE, None) is not None:
        raise InputError("a bypass is active on this model; leave it first, and name all layers in one plan.")
    structure = structure_in(model)
    layers = decoder_layers(model)
    path, _, name = structure.layers.rpartition(".")
    parent = model.get_submodule(path)
    plan = as_cut_plan(plan, len(layers))
    if len(layers) != plan.num_layers:
        raise plan.unfit(f"this one has {len(layers)}")
    # transformers puts its output recording hooks on the layers once per model, when hidden states are first asked for.
    # Inside a bypass, the layers that are out would never get theirs, and the restored model would return too few.
    if isinstance(parent, PreTrainedModel):
        maybe_install_capturing_hooks(parent)
    old, new, settings = _followed(model, plan)
    with ExitStack() as undo:
        for setting in settings:
            owner: nn.Module = model if setting.layer is None else layers[setting.layer]
            _set(undo, owner.get_submodule(setting.module), setting.name, setting.value)
        if not plan.is_uncut:
            if plan.channels is not None:
                _thin(undo, model, layers, plan)
            if plan.vocabulary is not None:
                _trim(undo, model, plan.vocabulary)
            if plan.removed:
                kept = nn.ModuleList(layers[i] for i in plan.kept)
                kept.training = layers.training  # the list's own flag; the layers have theirs
                _set(undo, parent, name, kept)
            new = follow_config(new, old, LayerNumbers(plan, structure))
        for config in language_configs(model):
            for field in [name for name in new if new[name] != old.get(name) and name != "per_layer_config"]:
                _set(undo, config, field, new[field])
            for field in old.keys() - new.keys():
                _set(undo, config, field, _MISSING)
            if "per_layer_config" in new:  # a view; what it shows is held elsewhere
                _set(undo, config, _OVERRIDES, getattr(type(config).from_dict(new), _OVERRIDES))
        return undo.pop_all()
    raise AssertionError("unreachable")


def check_plan_on_model(model: PreTrainedModel, plan: CutPlan) -> None:
    """Raise InputError if a layer that stays would become another one. Each plan is checked once for a whole model."""
    known = _checked.setdefault(model, set())
    if plan.key not in known:
        _followed(model, plan)
        known.add(plan.key)


def _followed(model: PreTrainedModel, plan: CutPlan) -> tuple[dict[str, Any], dict[str, Any], tuple[Setting, ...]]:
    """The text config before and under a plan, and the attributes of modules that follow it."""
    structure = structure_in(model)
    old = text_config_of(model).to_dict()
    new = cut_config(old, plan.depth_only, structure)
    settings = settings_under(type(model), model.config, plan.depth_only)
    if plan.channels is not None:
        mlp_width_in(model).check(plan.channels)
        settings = (*settings, *attributes_under(model, plan.channels))
    return old, thin_config(new, plan.channels), settings


def _thin(undo: ExitStack, model: PreTrainedModel, layers: nn.ModuleList, plan: CutPlan) -> None:
    """Give the layers that stay the part of each tensor whose channels stay; what was cut before is taken again."""
    assert plan.channels is not None
    slots = mlp_width_in(model).slots
    held = _thinned.setdefault(model, {})
    for key in [key for key in held if key[0] != plan.channels.key]:
        del held[key]
    for layer, channels in plan.channels.kept.items():
        for slot in slots[layer] if layer in plan.kept else ():
            module = layers[layer].get_submodule(slot.module)
            before: nn.Parameter = getattr(module, slot.tensor)
            key = (plan.channels.key, layer, slot.name)
            whole, version, thin = held.get(key, (None, 0, before))
            if whole is not before or version != before._version:
                entries = slot.entries(channels, plan.channels.width)
                data = map_entries(torch.index_select, before.detach(), slot.dim, entries)
                thin = nn.Parameter(data, requires_grad=before.requires_grad)
                held[key] = (before, before._version, thin)
            _set(undo, module, slot.tensor, thin)


def _trim(undo: ExitStack, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Give the embeddings and the output head the rows of the tokens that stay, and the config their number."""
    rows, new = torch.tensor(vocabulary.kept), dict[int, nn.Parameter]()
    tables: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    for module in filter(None, tables):
        for name, before in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if before.shape[0] != vocabulary.size:
                raise InputError(f"the model has {before.shape[0]:,} rows of tokens, and the plan {vocabulary.size:,}.")
            if id(before) not in new:  # a tied head has the very tensor of the embeddings
                new[id(before)] = nn.Parameter(before.detach()[rows.to(before.device)], before.requires_grad)
            _set(undo, module, name, new[id(before)])
        for size in ("num_embeddings", "out_features"):
            if hasattr(module, size):
                _set(undo, module, size, len(rows))
        if hasattr(module, "padding_idx"):
            _set(undo, module, "padding_idx", None)  # an old id, which has no part in a forward pass
    for config in language_configs(model):
        _set(undo, config, "vocab_size", len(rows))


def _set(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set or delete an attribute and note how to get the old one back, the very same object."""

    def put(value: Any) -> None:
        if value is not _MISSING:
            setattr(owner, name, value)
        elif hasattr(owner, name):
            delattr(owner, name)

    undo.callback(put, getattr(owner, name, _MISSING))
    put(value)


@contextmanager
def masked_channels(model: PreTrainedModel, plan: CutPlan) -> Iterator[PreTrainedModel]:
    """Run ``model`` with zeros in the columns of the removed MLP channels, unsliced: a reference of its own."""
    layers, channels = decoder_layers(model), plan.channels
    with ExitStack() as undo:
        for layer, kept in channels.kept.items() if channels else ():
            assert channels is not None
            gone = sorted(set(range(channels.mlps[layer] * channels.width)) - set(kept))
            for slot in mlp_width_in(model).readers(layer):
                module = layers[layer].get_submodule(slot.module)
                whole: nn.Parameter = getattr(module, slot.tensor)
                entries = slot.entries(gone, channels.width)
                zeros = map_entries(partial(torch.index_fill, value=0.0), whole.detach(), slot.dim, entries)
                _set(undo, module, slot.tensor, nn.Parameter(zeros, requires_grad=False))
        yield model


@contextmanager
def bypass(model: PreTrainedModel, plan: CutPlan | str | Sequence[int]) -> Iterator[PreTrainedModel]:
    """Run ``model`` without the plan's layers inside a ``with`` block; an empty plan runs it uncut.
    The plan may be given as layers, ``"24-26"`` or ``[24, 25, 26]``.

    Inside the block the model *is* the pruned model: forward passes, the KV cache, ``generate`` and
    ``save_pretrained`` work as they would after ``remove_layers``. Not a single weight is changed, and none is copied
    but the MLP channels that stay, once for the same plan; then entering and leaving takes about a millisecond. On
    leaving, also by an exception, every object is back where it was.

    Inside the block, do not move the model to another device or switch it between training and evaluation: the layers
    that are out would not follow. A model holds one bypass at a time, for all threads.

    Raises InputError: the plan does not fit the model, or a bypass is active on it already.
    """
    with apply_plan_to_model(model, plan):
        setattr(model, ACTIVE, plan)
        try:
            yield model
        finally:
            delattr(model, ACTIVE)
