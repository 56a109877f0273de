"""Angular distance: remove the block of layers whose output direction is closest to its input direction."""

# Shapes: N tokens.

from __future__ import annotations

import math

from torch import Tensor

from layercut.selection.base import Context, Selection
from layercut.selection.rotation import select_by_rotation


def angular_distance(context: Context) -> Selection:
    """Rank blocks of decoder layers by the angle between a block's input and its output.

    d(h_l, h_{l+n}) = mean over texts of arccos(cos(h_l, h_{l+n})) / pi, on calibration text, from 0 (same direction)
    to 1 (opposite). Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv:2403.17887. Every
    block is measured, the one that starts at layer 0 (h_0 is the embedding output) and the one that ends with the
    last layer (h_L is taken before the final norm) too. The angles are averaged, not the cosines.

    Settings:
        token: ``last`` (default, the paper's) uses the last real token of each text, ``all`` every real token.
        form: ``contiguous`` (default, the paper's) removes the run of n = ``num_remove`` layers with the least
            distance, from its last layer to its first; runs that hold a protected layer are left out. ``scattered``
            takes n = 1 and removes the ``num_remove`` layers of least distance.

    Details: ``token``, ``form``, ``num_texts``, ``num_tokens`` (tokens averaged over), and for the contiguous form
    ``blocks``, each with ``first``, ``last`` (inclusive), ``value`` and ``allowed`` (false when it holds a protected
    layer).

    Raises:
        InputError: an unknown setting or value, no engine or no text, hidden states that are not numbers, or no run of
            ``num_remove`` layers without a protected one.
    """
    return select_by_rotation(
        context, "angular_distance", _distance, tokens=("last", "all"), forms=("contiguous", "scattered")
    )


def _distance(cosine_N: Tensor) -> Tensor:
    return cosine_N.clamp(-1, 1).acos() / math.pi  # rounding can leave a cosine just outside, where there is no angle
