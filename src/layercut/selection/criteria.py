"""Criteria by how far layers turn the stream: block influence and angular distance."""

# Shapes: B batch, T tokens, N tokens that are looked at, D hidden size, L decoder layers, n layers of a block.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from layercut.errors import InputError
from layercut.selection.base import Context, Selection, by_importance, chosen_settings, engine_and_text
from layercut.surgery.plan import CutPlan

Measure = Callable[[Tensor], Tensor]
"""From cosines (N,) of a block's input and output to what is averaged (N,); 0 where they point the same way."""


def select_by_rotation(
    context: Context, criterion: str, measure: Measure, *, tokens: tuple[str, str], forms: tuple[str, str]
) -> Selection:
    """Remove the layers (form ``scattered``) or the run of layers (form ``contiguous``) that turn their input least.

    ``tokens`` and ``forms`` are the values of the settings ``token`` and ``form``, the default first. Details: both,
    ``num_texts``, ``num_tokens`` (tokens averaged over), and for the contiguous form ``blocks``, each with ``first``,
    ``last`` (inclusive), ``value`` and ``allowed`` (false when it holds a protected layer).

    Raises InputError: an unknown setting or value, no engine or no text, hidden states that are not numbers, or no run
    of ``num_remove`` layers without a protected one.
    """
    settings = chosen_settings(criterion, context.settings, token=tokens, form=forms)
    contiguous = settings["form"] == "contiguous"
    allowed = _allowed_blocks(context) if contiguous else []  # before the model is run for nothing
    span = context.num_remove if contiguous else 1
    values, counts = mean_rotations(context, criterion, measure, span=span, token=settings["token"])
    details = {**settings, **counts}
    if not contiguous:
        return by_importance(context, {layer: values[layer] for layer in context.candidates}, details)
    # The block with the least value, removed from its last layer to its first; of equals the later block.
    first = min(allowed, key=lambda start: (values[start], -start))
    blocks = [
        {"first": start, "last": start + span - 1, "value": value, "allowed": start in allowed}
        for start, value in enumerate(values)
    ]
    # The score belongs to the block, so no layer has an importance of its own.
    return Selection(tuple(range(first, first + span))[::-1], {}, {**details, "blocks": blocks})


def mean_rotations(
    context: Context, criterion: str, measure: Measure, *, span: int, token: str
) -> tuple[list[float], dict[str, int]]:
    """Mean of ``measure`` over the real tokens of the calibration text, for every block of ``span`` layers.

    The block that starts at layer l takes h_l to h_{l+span}, where h_0 is the embedding output and h_L the last layer's
    output before the final norm. ``token``: ``all`` real tokens with the same weight, or the ``last`` one of each text.

    Returns L - n + 1 values, by the block's first layer, higher where the block turns its input further; and the
    numbers of texts and tokens. Raises InputError as ``select_by_rotation``, or without a token in the text.
    """
    engine, calibration = engine_and_text(context, criterion)
    texts = calibration.texts
    sums = torch.zeros(context.num_layers - span + 1, dtype=torch.float64)
    num_texts = num_tokens = 0
    for batch in engine.hidden_states(texts, CutPlan(num_layers=context.num_layers)):
        assert len(batch.states_BTD) == context.num_layers + 1
        picked_BT = batch.mask_BT.bool()  # real tokens, with padding on either side
        if token == "last":
            picked_BT &= picked_BT.cumsum(dim=1) == picked_BT.sum(dim=1, keepdim=True)
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
    return (sums / num_tokens).tolist(), {"num_texts": num_texts, "num_tokens": num_tokens}


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


def block_influence(context: Context) -> Selection:
    """Rank decoder layers by how far each one turns its input.

    BI_l = 1 - mean over real tokens of cos(h_l, h_{l+1}), on calibration text, from 0 (layer l only scales its input)
    to 2. Men et al., "ShortGPT", arXiv:2403.03853. h_0 is the embedding output and h_L the last layer's output *before*
    the final norm. (``output_hidden_states`` of transformers gives it after the norm, which would add the norm's
    rotation to the last layer's influence.)

    Settings:
        token: ``all`` (default, the paper's) averages over every real token of the calibration text, ``last`` over the
            last real token of each text.
        form: ``scattered`` (default, the paper's) removes the ``num_remove`` layers of least influence. ``contiguous``
            removes the run of ``num_remove`` layers with the least 1 - mean cos(h_l, h_{l+n}), from its last layer to
            its first, as in Chen et al., "LLM-Streamline", arXiv:2403.19135.

    For details and errors see ``select_by_rotation``.
    """
    return select_by_rotation(
        context,
        "block_influence",
        lambda cosine_N: 1 - cosine_N,
        tokens=("all", "last"),
        forms=("scattered", "contiguous"),
    )


def angular_distance(context: Context) -> Selection:
    """Rank blocks of decoder layers by the angle between a block's input and its output.

    d(h_l, h_{l+n}) = mean over texts of arccos(cos(h_l, h_{l+n})) / pi, on calibration text, from 0 (same direction) to
    1 (opposite). Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv:2403.17887. Every block
    is measured, also those that start at layer 0 (h_0 is the embedding output) or end with the last layer (h_L is taken
    before the final norm). The angles are averaged, not the cosines.

    Settings:
        token: ``last`` (default, the paper's) uses the last real token of each text, ``all`` every real token.
        form: ``contiguous`` (default, the paper's) removes the run of n = ``num_remove`` layers with the least
            distance, from its last layer to its first, among runs without a protected layer. ``scattered`` takes n = 1
            and removes the ``num_remove`` layers of least distance.

    For details and errors see ``select_by_rotation``.
    """
    return select_by_rotation(
        context,
        "angular_distance",
        lambda cosine_N: cosine_N.clamp(-1, 1).acos() / math.pi,  # rounding may leave a cosine just outside
        tokens=("last", "all"),
        forms=("contiguous", "scattered"),
    )
