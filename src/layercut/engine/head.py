"""Logits at chosen positions, a bounded number at a time.

All logits of a batch of long texts would not fit: 32 x 512 positions of a vocabulary of 150,000 are 10 GB in float32.
"""

# Shapes: B batch, T tokens, D hidden size, V vocabulary, N positions whose logits are wanted, C positions of a chunk.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from layercut.models.structure import structure_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_SIZE = 2**24
"""Logits of a chunk at most, 64 MB in float32."""


class HeadInput(NamedTuple):
    """Input of the language model head at the chosen positions."""

    states_ND: Tensor
    kind: type[Any]
    """Class in which the model's body returns its states."""


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model below its language model head, final norm included; of a model that also sees, with its eyes.

    Where that part is a language model with a head of its own, it is the part that holds the decoder layers.
    """
    body: Any = model.base_model
    if body.get_output_embeddings() is None:
        return body  # type: ignore[no-any-return]
    found: PreTrainedModel = model.get_submodule(structure_in(model).layers.rpartition(".")[0])  # type: ignore[assignment]
    return found


@torch.no_grad()
def states_at(model: PreTrainedModel, ids_BT: Tensor, read: Sequence[tuple[int, int]]) -> HeadInput:
    """Run the model's body, the final norm included, over rows that are padded on the right; ``read`` holds N pairs of
    row and position. Padding needs no mask: in a causal model nothing sees what comes after it."""
    output = body_of(model)(input_ids=ids_BT, use_cache=False)
    row_N, token_N = torch.tensor(read, device=output.last_hidden_state.device).unbind(1)
    return HeadInput(output.last_hidden_state[row_N, token_N], type(output))


def chunks(model: PreTrainedModel, num_positions: int) -> Iterator[slice]:
    """Runs of positions whose logits are few enough to be made at once."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    size = max(1, CHUNK_SIZE // head.weight.shape[0])
    return (slice(start, min(start + size, num_positions)) for start in range(0, num_positions, size))


@torch.no_grad()
def logits(model: PreTrainedModel, before: HeadInput, chunk: slice) -> Tensor:
    """Logits (C, V) of a chunk of positions."""
    return logits_with_gradients(model, before, chunk)


def logits_with_gradients(model: PreTrainedModel, before: HeadInput, chunk: slice) -> Tensor:
    """Logits (C, V) of a chunk of positions, through which gradients may flow.

    The model's own forward pass makes them, around a body that only hands the states on: some families scale or cap
    their logits after the head.
    """
    states_1CD = before.states_ND[chunk].unsqueeze(0)
    with _body_gives(model, before.kind(last_hidden_state=states_1CD)):
        tokens_1C = torch.zeros(states_1CD.shape[:2], dtype=torch.long, device=model.device)  # never read
        logits_1CV: Tensor = model(input_ids=tokens_1C, use_cache=False).logits
    return logits_1CV[0]


@contextmanager
def _body_gives(model: PreTrainedModel, output: object) -> Iterator[None]:
    body: Any = body_of(model)
    own = vars(body).get("forward")  # accelerate puts one there when a model is spread over devices
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del body.forward
        if own is not None:
            body.forward = own
