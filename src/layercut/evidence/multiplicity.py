"""Many comparisons at once: p-values that hold for all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


ALPHA = 0.05
"""A difference counts where its adjusted p-value is below this."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1. Calling all adjusted
    values below 0.05 a finding is wrong about any of them with a probability of at most 0.05, however the comparisons
    depend on each other. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).

    Written here because scipy only has the false discovery rate, which bounds another error, and statsmodels would be a
    dependency for these few lines.

    Raises:
        InputError: a value outside [0, 1], or NaN.
    """
    for index, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise InputError(f"p-value {index} is {p}; p-values go from 0 to 1.")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
