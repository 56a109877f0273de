"""The weight matrices of each decoder layer, over which magnitude and Taylor scores sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.errors import InputError
from layercut.selection.base import Context
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from torch import nn

    from layercut.models.loading import LoadedModel


def loaded_model(context: Context, criterion: str) -> LoadedModel:
    """The model whose weights a criterion reads.

    Raises:
        InputError: the context has none.
    """
    if context.loaded is None:
        raise InputError(
            f"{criterion} reads the model's weights, and there is no model here; use layercut select with "
            "`engine` shared, or give the Context a loaded model."
        )
    return context.loaded


def layer_matrices(loaded: LoadedModel, criterion: str) -> list[dict[str, nn.Parameter]]:
    """Per decoder layer, its weight matrices by their name within the layer.

    These are the parameters of two and more dimensions: the projections of attention and MLP, and in mixtures of
    experts the router and all experts. Norm weights and biases are vectors and left out; embeddings and the head,
    tied or not, are in no decoder layer.

    Raises:
        InputError: weights that were not loaded (offloaded) or are packed (quantised), so that they cannot be read.
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
