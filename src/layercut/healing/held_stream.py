"""HeldStream: a model's stream over batches of text, carried from layer to layer.

What is solved at one layer after the other needs the stream there each time. Run from the bottom, a model of L layers
would compute L^2 / 2 of them. Here the stream behind a layer is held, and the model goes on from it.
"""

# Shapes: B batch, T tokens, D hidden size.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layercut.engine.stack import StandIn, in_place_of
from layercut.healing.fold import outputs_of, run_until
from layercut.surgery.remove import decoder_layers

_TRIED = 16
"""Tokens on which it is tried whether a model goes on from a held stream."""


class HeldStream:
    """The stream of one model; weights of layers above the held one may change meanwhile."""

    def __init__(self, model: Any, batches_BT: Sequence[Tensor]) -> None:
        """Nothing is held yet.

        Args:
            batches_BT: token ids of each batch, by its place.
        """
        self._model, self._layers = model, decoder_layers(model)
        self._batches = batches_BT
        self._held: dict[int, tuple[int, Tensor]] = {}
        self.goes_on = False
        """True if the model gives the same from a held stream. Otherwise, as where layers share keys, it always runs
        from the bottom.
        """
        try:
            self.goes_on = self._is_equal()
        except Exception:  # a model's own code, called in a way that it may not know
            self.goes_on = False

    @torch.no_grad()
    def run(self, place: int, layer: int) -> None:
        """Run a batch up to the output of a layer above the held one; hooks that were set see it."""
        self._run(self._batches[place], layer, self._held.get(place))

    def behind(self, place: int, layer: int) -> Tensor:
        """The stream (B, T, D) of a batch behind a layer, which is held from now on."""
        held = self._held.get(place)
        if held is None or held[0] != layer:
            with outputs_of(self._layers, [layer]) as seen:
                self.run(place, layer)
            held = (layer, seen[layer])
            if self.goes_on:
                self._held[place] = held
        return held[1]

    def _run(self, ids_BT: Tensor, layer: int, held: tuple[int, Tensor] | None) -> None:
        ids_BT = ids_BT.to(self._model.device)
        if held is None:
            run_until(self._layers[layer], self._model, ids_BT)
            return
        below, states_BTD = held
        stand_ins = [StandIn(one, [], states_BTD) for one in self._layers[: below + 1]]
        with in_place_of(self._layers, [*stand_ins, *self._layers[below + 1 :]]):
            run_until(self._layers[layer], self._model, ids_BT)

    @torch.no_grad()
    def _is_equal(self) -> bool:
        ids_1T, count = self._batches[0][:1, :_TRIED], len(self._layers)
        with outputs_of(self._layers, range(count)) as plain:
            self._run(ids_1T, count - 1, None)
        for layer in range(1, count):
            with outputs_of(self._layers, [layer]) as seen:
                self._run(ids_1T, layer, (layer - 1, plain[layer - 1]))
            if not torch.equal(seen[layer], plain[layer]):
                return False
        return True
