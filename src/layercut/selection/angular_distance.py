"""Angular distance: remove the block of layers whose output direction is closest to its input direction."""

# Shapes: N tokens.

from __future__ import annotations

import math

from torch import Tensor

from layercut.selection.base import Context, Selection
from layercut.selection.rotation import select_by_rotation


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
        context, "angular_distance", _distance, tokens=("last", "all"), forms=("contiguous", "scattered")
    )


def _distance(cosine_N: Tensor) -> Tensor:
    return cosine_N.clamp(-1, 1).acos() / math.pi  # rounding may leave a cosine just outside
