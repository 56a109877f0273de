"""Magnitude compensation: rescale the residual stream after a cut to its original norm. No training.

Prune&Comp (arXiv:2507.18212): a removed layer changes the norm of the stream, so the stream is scaled by alpha = the
mean over tokens of |h| / |x|, with x the stream before the cut and h the original model's stream after it. The paper
scales all that writes into the stream below the cut. Here all that writes into it above the cut is divided by alpha,
which is the same model: the stream is alpha times smaller from there on, and layers that normalise what they read do
not see that. So embeddings stay as they are, also where the head shares them. A layer that reads the unnormalised
stream (olmo2, olmo3) would see it: the fold is compared with the scaled stream itself, and refused. Sums are a few
numbers.
"""

# Shapes: N tokens, D hidden size.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from layercut.errors import InputError
from layercut.healing.adapters import probe
from layercut.healing.fold import attention_branch, branch, scale_output
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-3
"""Largest difference of a logit between the folded model and the one with the scaled stream, as a share of the largest.
The small constant in each norm does not scale along, which is what is allowed for here."""


class MagnitudeSums:
    """Streaming sums over tokens, in float64: of |h| / |x|, |x| / |h| and its square."""

    def __init__(self) -> None:
        self._louder = self._quieter = self._squares = 0.0
        self.num_tokens = 0

    def add(self, x_ND: Tensor, h_ND: Tensor) -> None:
        """More tokens: our stream, and the original model's."""
        ours_N, theirs_N = (part.double().norm(dim=-1).clamp(min=1e-12) for part in (x_ND, h_ND.to(x_ND.device)))
        self._louder += (theirs_N / ours_N).sum().item()
        self._quieter += (ours_N / theirs_N).sum().item()
        self._squares += (ours_N / theirs_N).square().sum().item()
        self.num_tokens += len(x_ND)

    @property
    def factor(self) -> float:
        """The mean of |h| / |x|.

        Raises:
            InputError: no tokens.
        """
        if not self.num_tokens:
            raise InputError("there is no text to measure magnitudes on; give prompts.")
        return self._louder / self.num_tokens

    def gap(self, factor: float = 1.0) -> float:
        """Mean over tokens of ((factor |x| - |h|) / |h|)^2."""
        return (factor**2 * self._squares - 2 * factor * self._quieter) / self.num_tokens + 1


class Scaled(NamedTuple):
    """A fold, and the proof."""

    max_abs_diff: float
    tolerance: float


@torch.no_grad()
def scale_stream(model: PreTrainedModel, below: int, alpha: float) -> Scaled:
    """Change the weights so that the model computes what it would with its stream times alpha behind layer ``below``.

    Args:
        model: changed in place.
        below: a decoder layer.
        alpha: above 0.

    Raises:
        InputError: the model is another one then, because a layer above reads the stream without normalising it. The
            weights are as they were.
    """
    layers = decoder_layers(model)
    ids_BT = probe(model)
    hook = layers[below].register_forward_hook(
        lambda _, __, output: output * alpha if isinstance(output, Tensor) else (output[0] * alpha, *output[1:])
    )
    try:
        expected = _logits(model, ids_BT)
    finally:
        hook.remove()
    writers = [module for layer in list(layers)[below + 1 :] for module in (attention_branch(layer), branch(layer))]
    before = [parameter.detach().clone() for module in writers for parameter in module.parameters()]
    try:
        for module in writers:
            scale_output(module, 1 / alpha)
        found = Scaled(
            (_logits(model, ids_BT) - expected).abs().max().item(), TOLERANCE * max(1.0, expected.abs().max().item())
        )
        if not found.max_abs_diff <= found.tolerance:
            raise InputError(
                f"{model.config.model_type} does not normalise all that its layers read, so the stream's magnitude "
                f"cannot be folded in exactly (a logit differs by {found.max_abs_diff:.2g}); use --seam scale."
            )
    except InputError:
        parameters = (parameter for module in writers for parameter in module.parameters())
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        raise
    return found


def _logits(model: Any, ids_BT: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids_BT, use_cache=False).logits
    return logits.float()
