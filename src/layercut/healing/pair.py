"""The pruned and the original model in memory: with one set of weights where the kept layers are the same.

Distillation needs both. Adapters leave the pruned model's own weights as they are, so these may be the original
model's: then the original model alone is loaded, and the pruned one is a second tree of modules over its weights. Each
tree has its own layers, config and adapters, so nothing is switched between the two passes of a step.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from layercut.engine.handle import ModelHandle
from layercut.healing.settings import TrainSettings
from layercut.healing.trainable import load_for_training
from layercut.models.loading import LoadedModel, load_tokenizer
from layercut.models.weights import read_config
from layercut.surgery.checkpoint import hash_after
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import remove_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pair(NamedTuple):
    """The models of a healing."""

    cut: LoadedModel
    uncut: LoadedModel | None
    """None where it is not needed in training, or has weights of its own and is loaded later."""


def plan_of(cut: ModelHandle) -> CutPlan:
    """The plan of the last cut of a model; an empty one for a model that is whole."""
    return cut.earlier_plans[-1] if cut.earlier_plans else CutPlan(num_layers=cut.num_layers)


def shares_weights(cut: ModelHandle, teacher: ModelHandle, train: TrainSettings) -> bool:
    """Whether training keeps one set of weights in memory for both models.

    The pruned checkpoint must be what its plan makes of ``teacher``: its hash is that of such a cut. So a checkpoint
    that was healed, repaired at its seams or cut from another model has weights of its own. Only adapters leave the
    weights of a model as they are, and quantised weights are no plain tensors. Reads headers and samples of weights.
    """
    if train.method != "lora" or not train.needs_teacher or "quantization_config" in read_config(teacher.source.path):
        return False
    if (cut.dtype, cut.settings.device) != (teacher.dtype, teacher.settings.device):
        return False
    plan, ours, theirs = plan_of(cut), cut.metadata.model_hash, teacher.metadata.model_hash
    return ours == theirs or (plan.model_hash == theirs and hash_after(teacher.source.path, plan) == ours)


def load_pair(cut: ModelHandle, teacher: ModelHandle, train: TrainSettings) -> Pair:
    """Load what training needs first; the pruned model equals the one that is loaded alone, to the last bit."""
    if not shares_weights(cut, teacher, train):
        return Pair(load_cut(cut, train), None)
    uncut = load_cut(teacher, train)
    model = second_tree(uncut.model)
    if cut.metadata.model_hash != teacher.metadata.model_hash:
        remove_layers(model, plan_of(cut))
    model.name_or_path = model.config.name_or_path = str(cut.source.path)  # as if loaded from there
    metadata, tokenizer = cut.metadata, load_tokenizer(cut.source, False)
    return Pair(
        LoadedModel(model, tokenizer, metadata.structure, cut.source, metadata.model_hash, cut.num_layers), uncut
    )


def load_cut(handle: ModelHandle, train: TrainSettings) -> LoadedModel:
    """A model for training, or a teacher."""
    return load_for_training(handle.source, train, dtype=handle.settings.dtype, device=handle.settings.device)


def second_tree(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model whose parameters are new objects over the same memory; buffers and config are copied.

    Adapters, removed layers or another device of one tree do not change the other. Their weights must not be trained.
    """
    shared = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, dict[int, object](shared))
