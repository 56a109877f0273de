"""Distillation on hidden states: match the inputs of the kept layers to the original model's, in addition to
distributions.

A kept layer should get the same input as in the original model. The loss compares the residual stream that enters each
layer after the first cut, and the final norm, with the original model's. With h the pruned model's state and t the
teacher's, the distance is |h - t|^2 / |t|^2, the mean over these inputs. Loss = KL(p || q) + weight x distance, at the
tokens in the loss. FitNets (arXiv:1412.6550) and TinyBERT (arXiv:1909.10351) match states of models of different shape
by a learned map; here the plan says which states belong together, and the width is the same.
"""

# Shapes: N tokens in the loss, D hidden size.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layercut.healing.batches import in_loss
from layercut.healing.distill import DistillTrainer
from layercut.healing.places import matched_layers, outputs_of
from layercut.healing.trainable import bare
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers


class HiddenTrainer(DistillTrainer):
    """DistillTrainer whose loss adds the distance of the hidden states to the divergence."""

    def __init__(self, *args: Any, plan: CutPlan, weight: float, **kwargs: Any) -> None:
        """``plan``: what was cut out of the teacher. ``weight``: of the distance."""
        super().__init__(*args, **kwargs)
        self._matched = matched_layers(plan)
        self._weight = weight

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        layers = decoder_layers(bare(self.accelerator.unwrap_model(self.model)))
        assert self._teacher is not None
        with (
            outputs_of(layers, self._matched) as ours,
            outputs_of(decoder_layers(self._teacher), list(self._matched.values())) as theirs,
        ):
            divergences_N = super()._losses(model, inputs)
        places_BT = in_loss(inputs)
        distances = [
            relative_distance(ours[one][:, :-1][places_BT], theirs[other][:, :-1][places_BT])
            for one, other in self._matched.items()
        ]
        distance_N = torch.stack(distances).mean(0)
        if model.training:
            self.note("divergence", divergences_N.mean().item())
            self.note("hidden", distance_N.mean().item())
        return divergences_N + self._weight * distance_N


def relative_distance(ours_ND: Tensor, theirs_ND: Tensor) -> Tensor:
    """(N,) |h - t|^2 / |t|^2, float32, no unit."""
    wanted_ND = theirs_ND.to(ours_ND.device).float()
    return (ours_ND.float() - wanted_ND).square().sum(-1) / wanted_ND.square().sum(-1).clamp(min=1e-12)
