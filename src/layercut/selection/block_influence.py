"""Block influence: remove first the layers that change the direction of their input least."""

# Shapes: N tokens.

from __future__ import annotations

from layercut.selection.base import Context, Selection
from layercut.selection.rotation import select_by_rotation


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
