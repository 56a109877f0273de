"""Magnitude: remove first the layers with small weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from layercut.errors import InputError
from layercut.selection.base import Context, Selection, by_importance, choose
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from torch import nn

    from layercut.models.loading import LoadedModel


def magnitude(context: Context) -> Selection:
    """Rank decoder layers by the size of their weights.

    I_l = sum of |w| (``norm`` l1) or sqrt(sum of w^2) (l2) over every weight w of layer l's matrices: the linear
    projections of attention and MLP, no norms and no biases. Kim et al., "Shortened LLaMA", arXiv:2402.02834, whose
    Mag+ protects the first four and the last two layers (``--protect first:4,last:2``) and whose code counts norm
    weights too. The sum favours layers with more weights where layers differ in size, as in some mixtures of experts.
    Needs no text.

    Settings:
        norm: ``l1`` (default, the paper's) or ``l2``.

    Details: ``norm`` and ``num_weights`` (weights summed over, per candidate layer).

    Raises:
        InputError: an unknown setting or value, no model, weights that cannot be read or are not numbers.
    """
    norm = choose("magnitude", context.settings, norm=("l1", "l2"))["norm"]
    layers = layer_matrices(loaded_model(context, "magnitude"), "magnitude")
    importance = {}
    for done, layer in enumerate(context.candidates, start=1):
        importance[layer] = _size(layers[layer], norm)
        if not math.isfinite(importance[layer]):
            raise InputError(
                f"magnitude: layer {layer} holds weights that are not finite numbers; fetch the model again."
            )
        context.progress("magnitude", done, len(context.candidates))
    counts = {str(layer): sum(weight.numel() for weight in layers[layer].values()) for layer in context.candidates}
    return by_importance(context, importance, {"norm": norm, "num_weights": counts})


@torch.no_grad()
def _size(matrices: Mapping[str, nn.Parameter], norm: str) -> float:
    """One matrix at a time on the CPU: float32 values, float64 sum (some accelerators have no float64)."""
    total = 0.0
    for weight in matrices.values():
        values = weight.to("cpu", torch.float32)
        terms = values.abs() if norm == "l1" else values.square()
        total += float(terms.sum(dtype=torch.float64))
    return total if norm == "l1" else math.sqrt(total)


def loaded_model(context: Context, criterion: str) -> LoadedModel:
    """The model whose weights a criterion reads; InputError if the context has none."""
    if context.loaded is None:
        raise InputError(
            f"{criterion} reads the model's weights, and there is no model here; use layercut select with "
            "`engine` shared, or give the Context a loaded model."
        )
    return context.loaded


def layer_matrices(loaded: LoadedModel, criterion: str) -> list[dict[str, nn.Parameter]]:
    """Per decoder layer, its weight matrices by their name within the layer.

    These are the parameters of two and more dimensions: the projections of attention and MLP, and in mixtures of
    experts the router and all experts. Norm weights, biases, embeddings and the head are not among them. Raises
    InputError for weights that were not loaded (offloaded) or are packed (quantised), so that they cannot be read.
    """
    layers = [
        {name: weight for name, weight in layer.named_parameters() if weight.ndim >= 2}
        for layer in decoder_layers(loaded.model)
    ]
    for index, matrices in enumerate(layers):
        for name, weight in matrices.items():
            if weight.is_meta or not weight.is_floating_point():
                why = "was left on disk" if weight.is_meta else f"is packed as {weight.dtype}"
                raise InputError(
                    f"{criterion} cannot read {name} of layer {index}, which {why}; load {loaded.name} whole and "
                    "without quantisation."
                )
    return layers
