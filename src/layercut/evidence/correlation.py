"""Rank correlations: agreement of two measurements on the order of the same things."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy

from layercut.errors import InputError
from layercut.evidence.intervals import Estimate, finite_array

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST = 3
_DIGITS = 12
"""Values are rounded to this many decimals: sums of the same numbers in another order must stay ties."""


class RankCorrelation(NamedTuple):
    """Agreement of two orders: 1 the same, 0 unrelated, -1 opposite."""

    estimate: Estimate | None
    """``n`` counts the pairs; None where there is no number, see ``refused``."""
    refused: str
    """Reason for which there is none, in words."""


def rank_correlation(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> RankCorrelation:
    """Spearman's rho of pairs of values, with an interval by Fisher's z.

    Ties get their mean rank. z = atanh(rho) has a standard error of sqrt((1 + rho^2 / 2) / (n - 3)), where n is the
    number of pairs. Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations", Psychometrika 65 (2000). The interval takes the pairs as a draw from many; noise in the values
    themselves pulls rho towards 0 and is not in it. With fewer than four pairs, or all in exactly the same or the
    opposite order, there is no interval.

    Raises:
        InputError: different numbers of values, none, or a value that is not finite.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values came; a rank correlation needs pairs.")
    a, b = (np.round(finite_array(values), _DIGITS) for values in (first, second))
    n = len(a)
    if n < _FEWEST:
        return RankCorrelation(None, f"a correlation needs at least {_FEWEST} values, not {n}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(None, "all values on one side are equal, so they have no order")
    value = float(np.clip(float(scipy.stats.spearmanr(a, b).statistic), -1.0, 1.0))
    if n <= 3 or math.isclose(abs(value), 1.0):
        return RankCorrelation(Estimate(value, None, None, n, "none"), "")
    reach = float(scipy.stats.norm.ppf((1 + confidence) / 2)) * math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
    return RankCorrelation(Estimate(value, low, high, n, "fisher"), "")
