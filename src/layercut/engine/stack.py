"""Stack: runs any range of a model's decoder layers.

The model's own forward pass does everything around the layers, with stand-ins in the layers' place: it embeds the
tokens (some families scale them, some add positions) and provides each layer's arguments (rotary embeddings that differ
by layer type, and family-specific ones). So no family is named here, and every layer runs as in the model itself, after
any other layers.
"""

# Shapes: T tokens of one packed row, D hidden size, N positions that are read.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from layercut.engine.attention import Attending, attending
from layercut.engine.head import HeadInput, body_of
from layercut.engine.products import fast_products, large_layers, packed
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel


class LayerArguments(NamedTuple):
    """Arguments that the model hands to one layer beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Entered(NamedTuple):
    """A packed row at the bottom of the stack."""

    states_1TD: Tensor
    calls: list[LayerArguments]
    """One per layer of the original model."""


class Stack:
    """The layers of one loaded model; indices are those of the original model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._layers = decoder_layers(loaded.model)
        self._large = large_layers(loaded.model)

    def few_rows(self) -> AbstractContextManager[None]:
        """Within it the model is fast for few tokens at once, its head too; results differ by rounding."""
        return fast_products(self._large)

    def packed(self) -> AbstractContextManager[None]:
        """The same for a whole call and faster; nothing else may read the model's weights meanwhile."""
        return packed(self._model)

    @torch.no_grad()
    def enter(self, ids: Sequence[int], positions: Sequence[int]) -> Entered:
        """Embed T tokens that stand at the given positions of their own texts."""
        found: list[tuple[Tensor, LayerArguments]] = []
        stand_ins = [StandIn(layer, found) for layer in self._layers]
        device = self._model.device
        self._body(torch.tensor([ids], device=device), torch.tensor([positions], device=device), stand_ins)
        return Entered(found[0][0], [call for _, call in found])

    @torch.no_grad()
    def run(self, layer: int, states_1TD: Tensor, entered: Entered, attends: Attending) -> Tensor:
        """One layer's output for any hidden states of the tokens that entered; ``attends`` says who sees whom."""
        call = entered.calls[layer]
        with attending(self._model, attends):
            output = self._layers[layer](states_1TD, *call.args, **call.kwargs)
        return output if isinstance(output, Tensor) else output[0]

    @torch.no_grad()
    def leave(self, states_ND: Tensor) -> HeadInput:
        """The final norm: what the language model head is given."""
        ids_1N = torch.zeros((1, len(states_ND)), dtype=torch.long, device=self._model.device)
        output = self._body(ids_1N, ids_1N, [StandIn(self._layers[0], [], states_ND.unsqueeze(0))])
        return HeadInput(output.last_hidden_state[0], type(output))

    def _body(self, ids_1T: Tensor, positions_1T: Tensor, stand_ins: Sequence[nn.Module]) -> Any:
        with in_place_of(self._layers, stand_ins), attending(self._model, None):
            return body_of(self._model)(
                input_ids=ids_1T,
                position_ids=positions_1T,
                attention_mask=torch.ones_like(ids_1T),  # unread; without one some families warn of padding
                use_cache=False,
            )


class StandIn(nn.Module):
    """Takes a layer's call and hands on the states that came, or those it was given."""

    def __init__(
        self, layer: nn.Module, found: list[tuple[Tensor, LayerArguments]], states: Tensor | None = None
    ) -> None:
        super().__init__()
        object.__setattr__(self, "_layer", layer)  # beside torch's own bookkeeping: it is not a part of this module
        self._found = found
        self._states = states

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._found.append((hidden_states, LayerArguments(args, kwargs)))
        return hidden_states if self._states is None else self._states

    def __getattr__(self, name: str) -> Any:
        # Some families ask a layer for its kind before they call it.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_layer"), name)


@contextmanager
def in_place_of(layers: nn.ModuleList, stand_ins: Sequence[nn.Module]) -> Iterator[None]:
    """The model calls other modules in place of its layers, as long as this lasts."""
    own = layers._modules
    layers._modules = {str(index): module for index, module in enumerate(stand_ins)}
    try:
        yield
    finally:
        layers._modules = own
