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


def mean_rotations(
    context: Context, criterion: str, measure: Callable[[Tensor], Tensor], *, span: int, is_last: bool = False
) -> tuple[list[float], dict[str, int]]:
    """Mean of ``measure`` of the cosines (N,) of input and output, for every block of ``span`` layers.

    The block that starts at layer l takes h_l to h_{l+span}, where h_0 is the embedding output and h_L the last layer's
    output before the final norm. All real tokens of the calibration text count the same, or, with ``is_last``, the last
    one of each text.

    Returns L - n + 1 values, by the block's first layer, higher where the block turns its input further; and the
    numbers of texts and tokens. Raises InputError: no engine or no text, no token in it, or hidden states that are not
    numbers.
    """
    engine, calibration = engine_and_text(context, criterion)
    texts = calibration.texts
    sums = torch.zeros(context.num_layers - span + 1, dtype=torch.float64)
    num_texts = num_tokens = 0
    for batch in engine.hidden_states(texts, CutPlan(num_layers=context.num_layers)):
        assert len(batch.states_BTD) == context.num_layers + 1
        picked_BT = batch.mask_BT.bool()  # real tokens, with padding on either side
        if is_last:
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
            f"{criterion}: the hidden states around layer {layer} are not finite numbers; load another dtype."
        )
    return (sums / num_tokens).tolist(), {"num_texts": num_texts, "num_tokens": num_tokens}


def block_influence(context: Context) -> Selection:
    """Rank decoder layers by how far each one turns its input.

    BI_l = 1 - mean over real tokens of cos(h_l, h_{l+1}), on calibration text, from 0 (layer l only scales its input)
    to 2. Men et al., "ShortGPT", arXiv:2403.03853. h_0 is the embedding output and h_L the last layer's output *before*
    the final norm. (``output_hidden_states`` of transformers gives it after the norm, which would add the norm's
    rotation to the last layer's influence.) The layers of least influence are removed. No settings.

    Details: ``num_texts`` and ``num_tokens`` (tokens averaged over).

    Raises:
        InputError: a setting, no engine or no text, or hidden states that are not numbers.
    """
    chosen_settings("block_influence", context.settings)
    values, counts = mean_rotations(context, "block_influence", lambda cosine_N: 1 - cosine_N, span=1)
    return by_importance(context, {layer: values[layer] for layer in context.candidates}, counts)


def angular_distance(context: Context) -> Selection:
    """Rank blocks of decoder layers by the angle between a block's input and its output.

    d(h_l, h_{l+n}) = mean over texts of arccos(cos(h_l, h_{l+n})) / pi at the last token, on calibration text, from 0
    (same direction) to 1 (opposite). Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers",
    arXiv:2403.17887. Every block of n = ``num_remove`` layers is measured, also those that start at layer 0 (h_0 is the
    embedding output) or end with the last layer (h_L is taken before the final norm). The angles are averaged, not the
    cosines. The run with the least distance is removed, from its last layer to its first, among runs without a
    protected layer; of equals the later one. No settings.

    Details: ``num_texts``, ``num_tokens``, and ``blocks``, each with ``first``, ``last`` (inclusive), ``value`` and
    ``allowed`` (false when it holds a protected layer).

    Raises:
        InputError: a setting, no engine or no text, hidden states that are not numbers, or no run of ``num_remove``
            layers without a protected one.
    """
    chosen_settings("angular_distance", context.settings)
    span = context.num_remove
    starts = range(context.num_layers - span + 1)
    allowed = [start for start in starts if context.protected.isdisjoint(range(start, start + span))]
    if not allowed:  # before the model is run for nothing
        raise InputError(f"no {span} layers in a row are free of protected ones; remove fewer, or protect fewer.")
    values, counts = mean_rotations(
        context,
        "angular_distance",
        lambda cosine_N: cosine_N.clamp(-1, 1).acos() / math.pi,  # rounding may leave a cosine just outside
        span=span,
        is_last=True,
    )
    first = min(allowed, key=lambda start: (values[start], -start))
    blocks = [
        {"first": start, "last": start + span - 1, "value": value, "allowed": start in allowed}
        for start, value in enumerate(values)
    ]
    # The score belongs to the block, so no layer has an importance of its own.
    return Selection(tuple(range(first, first + span))[::-1], {}, {**counts, "blocks": blocks})
