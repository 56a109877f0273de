"""Losses over the vocabulary, of some rows of logits at a time.

A loss keeps several tensors of the size of its logits for the backward pass. In float32 each takes 4 N V bytes: 4.2 GB
for 8,192 tokens of a vocabulary of 128,256. Here the model's body runs once, and its head runs over chunks of rows. In
the backward pass each chunk is computed again, so the logits of one chunk exist at a time. Liger Kernel
(arXiv:2410.10989) and Cut Cross-Entropy (arXiv:2411.09009) do likewise for the cross-entropy; this is for any loss.

Losses of rows do not depend on each other, so the chunks change nothing but rounding. Where all logits fit in one chunk
nothing is computed twice.
"""

# Shapes: B rows, T tokens, N tokens in the loss, C of them in a chunk, P columns that have any, D hidden size, V
# vocabulary.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from layercut.engine.stack import HeadInput, body_of, logits_with_gradients
from layercut.healing.examples import given, in_loss
from layercut.healing.trainable import bare

CHUNK_SIZE = 2**25  # logits of a chunk at most, 128 MB in float32


@dataclass(frozen=True)
class Logits:
    """A model's logits (N, V) at every token in the loss, made when they are asked for."""

    states_ND: Tensor  # input of the head; the logits themselves where ``head`` is None
    vocabulary: int
    head: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.states_ND)

    def of(self, states_CD: Tensor) -> Tensor:
        """Logits (C, V) of a chunk of ``states_ND``."""
        return states_CD if self.head is None else self.head(states_CD)


def lazy_logits_in_loss(model: Any, batch: Mapping[str, Any]) -> Logits:
    """Logits for every token in the loss, in the order of ``in_loss``; those of a large batch are not made yet.

    A model that is wrapped for several processes makes them all, because the wrapper gathers its weights for one
    forward pass only. Under ``torch.no_grad`` the logits have no gradients later either.
    """
    places_BT, inputs = in_loss(batch), given(batch)
    row_N, token_N = places_BT.nonzero(as_tuple=True)
    # Tokens of any row, in order. The head, most of the work of a small model, is computed there alone.
    column_P = places_BT.any(0).nonzero().flatten()
    plain = bare(model)
    head: Any = plain.get_output_embeddings() if isinstance(plain, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    size = len(inputs["input_ids"]) * len(column_P)
    if head is not None and size * head.weight.shape[0] > CHUNK_SIZE:
        seen: list[Any] = []
        hook = body_of(plain).register_forward_hook(lambda _, __, output: seen.append((output, _autocast(plain))))
        try:
            model(**inputs, use_cache=False, logits_to_keep=column_P[:1])
        finally:
            hook.remove()
        if len(seen) == 1:
            output, computes_in = seen[0]
            states_ND = output.last_hidden_state[row_N, token_N]
            return Logits(states_ND, head.weight.shape[0], _head_of(plain, type(output), computes_in))
    logits_BPV: Tensor = model(**inputs, use_cache=False, logits_to_keep=column_P).logits
    logits_NV = logits_BPV[row_N, torch.searchsorted(column_P, token_N)]
    return Logits(logits_NV, logits_NV.shape[-1])


def over_rows(loss: Callable[..., Tensor], *logits: Logits, rows: Sequence[Tensor] = ()) -> Tensor:
    """Values of ``loss`` for all rows, computed for a chunk of rows at a time.

    Args:
        loss: takes logits (C, V) of each model and the chunk's part of each of ``rows``; gives a tensor whose first
            axis can be joined, such as (C,).
        logits: of one or more models at the same N tokens.
        rows: tensors (N, ...), such as the targets.
    """
    size = max(1, CHUNK_SIZE // logits[0].vocabulary)
    is_split = len(logits[0]) > size

    def of_chunk(*tensors: Tensor) -> Tensor:
        logits_of_chunk = [model.of(states) for model, states in zip(logits, tensors, strict=False)]
        return loss(*logits_of_chunk, *tensors[len(logits) :])

    losses = []
    inputs = (*(model.states_ND for model in logits), *rows)
    for chunk in zip(*(torch.split(tensor, size) for tensor in inputs), strict=True):
        if is_split and torch.is_grad_enabled():
            losses.append(checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False))
        else:
            losses.append(of_chunk(*chunk))
    return torch.cat(losses)


def token_losses(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """(C,) negative log-likelihood of each target, in nats, in float32 or the dtype of wider logits."""
    return cross_entropy(at_least_float32(logits_CV), targets_C, reduction="none")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _autocast(model: Any) -> torch.dtype | None:
    """Dtype of products at the moment, where that is not the dtype of the weights."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _head_of(model: PreTrainedModel, output: type[Any], computes_in: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    has_gradients = torch.is_grad_enabled()

    def head(states_CD: Tensor) -> Tensor:
        with (
            torch.set_grad_enabled(has_gradients and torch.is_grad_enabled()),
            torch.autocast(states_CD.device.type, computes_in, enabled=computes_in is not None),
        ):
            return logits_with_gradients(model, HeadInput(states_CD, output), slice(None))

    return head
