"""Weights of the sources of prompts in the loss: each counts by how far its answers are from the original model's.

By default every token of an answer counts the same, so a task of short answers hardly counts. With ``mixture`` damage,
the share of a source in the loss is its held-out divergence from the original model (nats a token) over the sum of all
sources'. It is measured at each evaluation and holds until the next one. Sheared LLaMA (arXiv:2310.06694) draws batches
by such losses; here the draws stay the same and tokens are weighted, so a resumed training equals an uninterrupted one.
"""

# Shapes: N tokens in the loss, S sources.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layercut.healing.batches import rows
from layercut.healing.examples import Data
from layercut.runs.healing import BY_SOURCE, shares_in_loss


class Mixture:
    """The sources of a training's examples, their held-out losses and their weights."""

    def __init__(self, data: Data) -> None:
        """``data``: names the source of every example."""
        self.names = sorted({data.source_of[one.id] for one in data.train})
        place = {name: index for index, name in enumerate(self.names)}
        self._place = {one.prompt: place[data.source_of[one.id]] for one in (*data.train, *data.held_out)}
        self._tokens = dict.fromkeys(self.names, 0)
        for one in data.train:
            self._tokens[data.source_of[one.id]] += len(one.completion)
        self._sums_2S = torch.zeros(2, len(self.names), dtype=torch.float64)
        """Of the evaluation that is running: losses and numbers of tokens."""

    def see_held_out(self, batch: Mapping[str, Any], losses_N: Tensor) -> None:
        """Add the losses of a batch to the evaluation that is running."""
        values_2N = torch.stack([losses_N.double(), torch.ones_like(losses_N, dtype=torch.float64)]).cpu()
        self._sums_2S.index_add_(1, self._sources(batch), values_2N)

    def held_out(self, accelerator: Any) -> dict[str, float]:
        """Mean loss of each source's held-out tokens in the evaluation that ends here, over all processes."""
        sums_2S, self._sums_2S = self._sums_2S, torch.zeros_like(self._sums_2S)
        if accelerator.num_processes > 1:
            sums_2S = accelerator.reduce(sums_2S.to(accelerator.device)).cpu()
        return dict(zip(self.names, (sums_2S[0] / sums_2S[1].clamp(min=1)).tolist(), strict=True))

    def weights(self, batch: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> Tensor:
        """(N,) weight of every token in the loss, 1 on average over the examples.

        ``log_history``: of the training, with at least one evaluation.
        """
        losses = next(line[BY_SOURCE] for line in reversed(log_history) if BY_SOURCE in line)
        shares, total = shares_in_loss(losses, self._tokens), sum(self._tokens.values())
        weights_S = torch.tensor([shares[name] * total / self._tokens[name] for name in self.names])
        return weights_S[self._sources(batch)]

    def _sources(self, batch: Mapping[str, Any]) -> Tensor:
        """(N,) index in ``names`` of every token in the loss."""
        found = rows(batch)
        places = torch.tensor([self._place[row.prompt] for row in found])
        return places.repeat_interleave(torch.tensor([row.num_in_loss for row in found]))
