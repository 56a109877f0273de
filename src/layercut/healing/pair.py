"""The pruned and the original model in memory: with one set of weights where the kept layers are the same.

Distillation needs both. Adapters leave the pruned model's own weights as they are, so these may be the original
model's: then the original model alone is loaded, and the pruned one is a second tree of modules over its weights. Each
tree has its own layers, config and adapters, so nothing is switched between the two passes of a step. A pruned model
that was repaired at its seams keeps the few matrices that the repair changed, and has the others in common.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from layercut.engine.handle import ModelHandle
from layercut.healing.methods import METHODS
from layercut.healing.settings import TrainSettings
from layercut.healing.trainable import load_for_training
from layercut.models.loading import LoadedModel, load_tokenizer
from layercut.models.weights import num_elements, read_config, stored_tensors
from layercut.surgery.checkpoint import changed_since
from layercut.surgery.remove import remove_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pair(NamedTuple):
    """The models of a healing."""

    cut: LoadedModel
    uncut: LoadedModel | None  # None where it is not needed in training, or has weights of its own and is loaded later


def own_parameters(cut: ModelHandle, teacher: ModelHandle, train: TrainSettings) -> int | None:
    """Elements of the pruned model's tensors that are not the teacher's; None if training loads both models whole.

    0 for what the plan makes of ``teacher``. A pruned checkpoint that was healed must have some weights as they were,
    and the dtype and architecture of the cut. Only adapters leave the weights of a model as they are, and quantised
    weights are no plain tensors. Reads headers and samples of weights.
    """
    method = METHODS[train.method]
    if not method.has_adapter or method.base != "stored" or not train.needs_teacher:
        return None
    if "quantization_config" in read_config(teacher.source.path):
        return None
    if (cut.dtype, cut.settings.device) != (teacher.dtype, teacher.settings.device):
        return None
    if cut.metadata.model_hash == teacher.metadata.model_hash:
        return 0
    if cut.last_cut.model_hash != teacher.metadata.model_hash:
        return None
    changed = changed_since(teacher.source.path, cut.last_cut, cut.source.path)
    own = None if changed is None else sum(tensor.num_parameters for tensor in changed)
    return None if own == num_elements(cut.source.path) else own


def load_pair(cut: ModelHandle, teacher: ModelHandle, train: TrainSettings) -> Pair:
    """Load what training needs first; the pruned model equals the one that is loaded alone, to the last bit."""
    own = own_parameters(cut, teacher, train)
    if own is None:
        return Pair(load_cut(cut, train), None)
    uncut = load_cut(teacher, train)
    model = second_tree(uncut.model)
    if cut.metadata.model_hash != teacher.metadata.model_hash:
        remove_layers(model, cut.last_cut)
    if own and not put_changed(model, cut.source.path):
        loaded = load_cut(cut, train)
        take_equal(loaded.model, model)
        return Pair(loaded, uncut)
    model.name_or_path = model.config.name_or_path = str(cut.source.path)  # as if loaded from there
    metadata, tokenizer = cut.metadata, load_tokenizer(cut.source, False)
    return Pair(
        LoadedModel(tokenizer, metadata.structure, cut.source, metadata.model_hash, cut.num_layers, model), uncut
    )


def load_cut(handle: ModelHandle, train: TrainSettings) -> LoadedModel:
    """A model for training, or a teacher."""
    return load_for_training(handle.source, train, dtype=handle.settings.dtype, device=handle.settings.device)


def second_tree(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model whose parameters are new objects over the same memory; buffers and config are copied.

    Adapters, removed layers or another device of one tree do not change the other. Their weights must not be trained.
    """
    shared = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in model.parameters()}
    return copy.deepcopy(model, dict[int, object](shared))


def put_changed(model: PreTrainedModel, folder: Path) -> bool:
    """Give a model the weights of a checkpoint where they differ from its own, reading one tensor at a time.

    False, and nothing is changed, where the checkpoint does not name every parameter as the model does.
    """
    held = dict(model.named_parameters(remove_duplicate=False))
    stored = stored_tensors(folder)
    named = {
        id(held[tensor.name])
        for tensor in stored
        if tensor.name in held and held[tensor.name].shape == tensor.entry.shape
    }
    if len(named) < len(stored) or not all(id(value) in named for value in held.values()):
        return False
    for tensor in stored:
        ours = held[tensor.name]
        with safe_open(tensor.file, "pt") as file:  # type: ignore[no-untyped-call]
            theirs = file.get_tensor(tensor.name).to(ours.device, ours.dtype)
        if not torch.equal(ours, theirs):
            own = nn.Parameter(theirs, requires_grad=False)
            _set(model, {name: own for name, value in held.items() if value is ours})
    return True


def take_equal(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Give a model the parameters of another that has the same names, where they are equal to the last bit."""
    theirs = dict(other.named_parameters(remove_duplicate=False))
    for name, ours in list(model.named_parameters(remove_duplicate=False)):
        twin = theirs.get(name)
        if twin is None or (twin.shape, twin.dtype, twin.device) != (ours.shape, ours.dtype, ours.device):
            continue
        if torch.equal(twin, ours):
            _set(model, {name: twin})


def _set(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, parameter)
