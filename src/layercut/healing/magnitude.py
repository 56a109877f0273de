"""Magnitude compensation: rescale the residual stream after a cut to its original norm. No training.

Prune&Comp (arXiv:2507.18212): a removed layer changes the norm of the stream. So the stream is scaled by alpha = the
mean over tokens of |h| / |x|, with x the stream before the cut and h the original model's stream after it. The paper
scales all that writes into the stream below the cut. Here all that writes into it above the cut is divided by alpha.
That is the same model: from there on the stream is alpha times smaller, which layers that normalise their input cannot
see. So embeddings stay unchanged, also where the head shares them. A layer that reads the unnormalised stream (olmo2,
olmo3) would see it: the fold is compared with the scaled stream itself, and refused.
"""

# Shapes: N tokens, D hidden size.

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layercut.errors import InputError
from layercut.healing.adapters import probe_logits
from layercut.healing.fold import attention_branch, branch, scale_output
from layercut.healing.places import output_changed
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-3
"""Largest difference of a logit between the folded model and the one with the scaled stream, as a share of the largest.
It allows for the small constant in each norm, which is not scaled.
"""


class MagnitudeSums:
    """Streaming sums over tokens, in float64: of |h| / |x|, |x| / |h| and its square."""

    def __init__(self) -> None:
        self._louder = self._quieter = self._squares = 0.0
        self.num_tokens = 0

    def add(self, x_ND: Tensor, h_ND: Tensor) -> None:
        ours_N, theirs_N = (part.double().norm(dim=-1).clamp(min=1e-12) for part in (x_ND, h_ND.to(x_ND.device)))
        self._louder += (theirs_N / ours_N).sum().item()
        self._quieter += (ours_N / theirs_N).sum().item()
        self._squares += (ours_N / theirs_N).square().sum().item()
        self.num_tokens += len(x_ND)

    @property
    def factor(self) -> float:
        """The mean of |h| / |x|; InputError without tokens."""
        if not self.num_tokens:
            raise InputError("there is no text to measure magnitudes on; give prompts.")
        return self._louder / self.num_tokens

    def gap(self, factor: float = 1.0) -> float:
        """Mean over tokens of ((factor |x| - |h|) / |h|)^2."""
        return (factor**2 * self._squares - 2 * factor * self._quieter) / self.num_tokens + 1


@torch.no_grad()
def scale_stream(model: PreTrainedModel, below: int, alpha: float) -> None:
    """Change the weights so that the model computes what it would with its stream times ``alpha`` behind layer
    ``below``.

    Raises InputError, with the weights unchanged, if a layer above reads the stream without normalising it.
    """
    layers = decoder_layers(model)
    with output_changed(layers[below], lambda output: output * alpha):
        expected = probe_logits(model)
    writers = [module for layer in list(layers)[below + 1 :] for module in (attention_branch(layer), branch(layer))]
    before = [parameter.detach().clone() for module in writers for parameter in module.parameters()]
    try:
        for module in writers:
            scale_output(module, 1 / alpha)
        difference = (probe_logits(model) - expected).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise InputError(
                f"{model.config.model_type} does not normalise all that its layers read, so the stream's magnitude "
                f"cannot be folded in exactly (a logit differs by {difference:.2g}); use `seam` scale."
            )
    except InputError:
        parameters = (parameter for module in writers for parameter in module.parameters())
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        raise
