"""Rank correlations: agreement of two measurements on the order of the same things."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import kendalltau, norm, spearmanr

from layercut.errors import InputError
from layercut.evidence.intervals import Array, Estimate, finite_array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    return _by_fisher(
        first,
        second,
        lambda a, b: float(spearmanr(a, b).statistic),
        lambda rho, n: math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 else None,
        confidence,
    )


def kendall_correlation(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> RankCorrelation:
    """Kendall's tau-b of pairs of values, with an interval by Fisher's z.

    tau-b = (concordant - discordant pairs) / sqrt of the pairs without ties on either side. z has a standard error of
    sqrt(0.437 / (n - 4)). Fieller, Hartley and Pearson, "Tests for rank correlation coefficients I", Biometrika 44
    (1957); Bonett and Wright (2000) as in ``rank_correlation``, whose other terms hold here too. With fewer than five
    pairs there is no interval.

    Raises:
        InputError: different numbers of values, none, or a value that is not finite.
    """
    return _by_fisher(
        first,
        second,
        lambda a, b: float(kendalltau(a, b).statistic),
        lambda tau, n: math.sqrt(0.437 / (n - 4)) if n > 4 else None,
        confidence,
    )


def _by_fisher(
    first: Sequence[float],
    second: Sequence[float],
    coefficient: Callable[[Array, Array], float],
    error_of: Callable[[float, int], float | None],
    confidence: float,
) -> RankCorrelation:
    """A coefficient, and its interval from the standard error of its z; None where there are too few pairs for one."""
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values came; a rank correlation needs pairs.")
    a, b = (np.round(finite_array(values), _DIGITS) for values in (first, second))
    n = len(a)
    if n < _FEWEST:
        return RankCorrelation(None, f"a correlation needs at least {_FEWEST} values, not {n}")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(None, "all values on one side are equal, so they have no order")
    value = float(np.clip(coefficient(a, b), -1.0, 1.0))
    error = error_of(value, n)
    if error is None or math.isclose(abs(value), 1.0):
        return RankCorrelation(Estimate(value, None, None, n, "none"), "")
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    low, high = math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
    return RankCorrelation(Estimate(value, low, high, n, "fisher"), "")
