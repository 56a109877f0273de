"""Rotation of hidden states by blocks of layers on calibration text: shared by block influence and angular distance.

One pass over the text gives a mean for every block of consecutive layers. Only running sums are kept, one number a
block, so memory does not grow with the text. Sums and cosines are float64: in half precision a mean over thousands of
tokens stops moving, and the arc cosine near 1 magnifies a rounding error of 1e-7 to an angle of 1e-4.
"""

# Shapes: B batch, T tokens, N tokens that are looked at, D hidden size, L decoder layers, n layers of a block.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from layercut.errors import InputError
from layercut.selection.base import Context, Selection, by_importance, choose, engine_and_text
from layercut.surgery.plan import CutPlan

Measure = Callable[[Tensor], Tensor]
"""From cosines (N,) of a block's input and output to what is averaged (N,); 0 where they point the same way."""


class Rotations(NamedTuple):
    """Means over calibration text, one per block."""

    values: tuple[float, ...]
    """By the block's first layer: L - n + 1 values. Higher means that the block turns its input further."""
    num_texts: int
    num_tokens: int


def select_by_rotation(
    context: Context, criterion: str, measure: Measure, *, tokens: tuple[str, str], forms: tuple[str, str]
) -> Selection:
    """Remove the layers (form ``scattered``) or the run of layers (form ``contiguous``) that turn their input least.

    Details: ``token``, ``form``, ``num_texts``, ``num_tokens`` (tokens averaged over), and for the contiguous form
    ``blocks``, each with ``first``, ``last`` (inclusive), ``value`` and ``allowed`` (false when it holds a protected
    layer).

    Args:
        context: with an engine and calibration text; settings ``token`` and ``form``.
        tokens: ``all`` and ``last``, the default first.
        forms: ``scattered`` and ``contiguous``, the default first.

    Raises:
        InputError: an unknown setting or value, no engine or no text, hidden states that are not numbers, or no run of
            ``num_remove`` layers without a protected one.
    """
    settings = choose(criterion, context.settings, token=tokens, form=forms)
    contiguous = settings["form"] == "contiguous"
    if contiguous:
        _allowed_blocks(context)  # before the model is run for nothing
    rotations = mean_rotations(
        context, criterion, measure, span=context.num_remove if contiguous else 1, token=settings["token"]
    )
    details = {**settings, "num_texts": rotations.num_texts, "num_tokens": rotations.num_tokens}
    if contiguous:
        return _least_block(context, rotations, details)
    return by_importance(context, {layer: rotations.values[layer] for layer in context.candidates}, details)


def mean_rotations(context: Context, criterion: str, measure: Measure, *, span: int, token: str) -> Rotations:
    """Mean of ``measure`` over the real tokens of the calibration text, for every block of ``span`` layers.

    The block that starts at layer l takes h_l to h_{l+span}, where h_0 is the embedding output and h_L the last layer's
    output before the final norm. The original model is run once. ``token``: ``all`` real tokens with the same weight,
    or the ``last`` one of each text. Raises InputError as ``select_by_rotation``, or without a token in the text.
    """
    engine, calibration = engine_and_text(context, criterion)
    texts = calibration.texts
    sums = torch.zeros(context.num_layers - span + 1, dtype=torch.float64)
    num_texts = num_tokens = 0
    for batch in engine.hidden_states(texts, CutPlan(num_layers=context.num_layers)):
        assert len(batch.states_BTD) == context.num_layers + 1
        picked_BT = _picked(batch.mask_BT, token)
        for first in range(len(sums)):
            before_ND = batch.states_BTD[first][picked_BT].double()
            after_ND = batch.states_BTD[first + span][picked_BT].double()
            sums[first] += measure(cosine_similarity(before_ND, after_ND, dim=-1)).sum()
        num_texts += len(batch.ids)
        num_tokens += int(picked_BT.sum())
        context.progress(criterion, num_texts, len(texts))
        del batch  # frees L + 1 large states before the next batch is computed
    if not num_tokens:
        raise InputError(f"{criterion} found no token in the calibration text; give a text that is not empty.")
    if not sums.isfinite().all():
        layer = int((~sums.isfinite()).nonzero()[0])
        raise InputError(
            f"{criterion}: the hidden states around layer {layer} are not finite numbers. Load the model with another "
            "dtype, bfloat16 or float32; if they stay, its weights are damaged."
        )
    return Rotations(tuple((sums / num_tokens).tolist()), num_texts, num_tokens)


def _picked(mask_BT: Tensor, token: str) -> Tensor:
    """True on the chosen tokens, with padding on either side."""
    real_BT = mask_BT.bool()
    if token == "all":
        return real_BT
    return real_BT & (real_BT.cumsum(dim=1) == real_BT.sum(dim=1, keepdim=True))


def _allowed_blocks(context: Context) -> list[int]:
    """First layers of the blocks of ``num_remove`` layers without a protected one; InputError if there are none."""
    starts = range(context.num_layers - context.num_remove + 1)
    allowed = [start for start in starts if context.protected.isdisjoint(range(start, start + context.num_remove))]
    if not allowed:
        raise InputError(
            f"no {context.num_remove} layers in a row are free of protected ones; remove fewer, protect fewer, or use "
            "the form scattered."
        )
    return allowed


def _least_block(context: Context, rotations: Rotations, details: dict[str, Any]) -> Selection:
    """The block with the least value, removed from its last layer to its first; of equals the later block."""
    allowed = _allowed_blocks(context)
    first = min(allowed, key=lambda start: (rotations.values[start], -start))
    blocks = [
        {"first": start, "last": start + context.num_remove - 1, "value": value, "allowed": start in allowed}
        for start, value in enumerate(rotations.values)
    ]
    # The score belongs to the block, so no layer has an importance of its own.
    return Selection(tuple(range(first, first + context.num_remove))[::-1], {}, {**details, "blocks": blocks})
