"""Magnitude: remove first the layers with small weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from layercut.errors import InputError
from layercut.selection.base import Context, Selection, by_importance, choose
from layercut.selection.weights import layer_matrices, loaded_model

if TYPE_CHECKING:
    from torch import nn


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
