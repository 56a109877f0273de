"""The Bayesian bootstrap of paired items: draws of both means, and one-sided bounds of the retention.

Bounds are for decisions. The two-sided intervals of layercut.evidence.paired contain the truth at their level, but one
end alone may err more often than half of it: 25 items that are right before and after give a lower end of 0.92, which
should be too high in 2.5 % of all cases, and a model that keeps 0.9 brings that about in 7 % (0.9^25).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layercut.errors import InputError
from layercut.evidence.intervals import (
    FEWEST_CLUSTERS,
    MAX_CELLS,
    NUM_RESAMPLES,
    Array,
    cluster_codes,
    cluster_sums,
    cluster_weights,
    finite_array,
    is_binary,
)
from layercut.seed import check_seed

# Shapes: N items, R resamples, K different pairs of values, or clusters that items share.


_OUTCOMES = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
_ADDED = 0.5
"""Items added to each outcome of a 0/1 metric."""


class Means(NamedTuple):
    """Means of the two models, each (R,)."""

    uncut: Array
    cut: Array


def resampled_means(
    before: Array, after: Array, codes: NDArray[np.intp] | None, rng: np.random.Generator, num_resamples: int
) -> Means | None:
    """Draws of a Bayesian bootstrap; for 0/1 metrics with half an item added to each of the four outcomes.

    None where there are too few clusters (``codes`` from 0 to K - 1) to resample.
    """
    binary = is_binary(before) and is_binary(after)
    if codes is None:
        return _by_item(before, after, binary, rng, num_resamples)
    if int(codes.max()) + 1 < FEWEST_CLUSTERS:
        return None
    return _by_cluster(before, after, binary, codes, rng, num_resamples)


def _by_item(before: Array, after: Array, binary: bool, rng: np.random.Generator, num_resamples: int) -> Means:
    # A weighting depends on equal pairs only through their number, so one Dirichlet weight per *different* pair will
    # do: K <= 4 for 0/1 metrics, however many items there are.
    pairs, counts = np.unique(np.stack([before, after], axis=1), axis=0, return_counts=True)
    alpha = counts.astype(np.float64)
    if binary:
        alpha = np.full(4, _ADDED)
        for (u, c), count in zip(pairs, counts, strict=True):
            alpha[int(2 * u + c)] += count
        pairs = _OUTCOMES
    means = np.concatenate([rng.dirichlet(alpha, size=size) @ pairs for size in _blocks(len(alpha), num_resamples)])
    return Means(means[:, 0], means[:, 1])


def _by_cluster(
    before: Array, after: Array, binary: bool, codes: NDArray[np.intp], rng: np.random.Generator, num_resamples: int
) -> Means:
    """Weighted sums over clusters divided by the weighted number of items; added items stand alone."""
    sums = np.stack([cluster_sums(values, codes) for values in (before, after, np.ones_like(before))], axis=1)
    blocks = []
    for size in _blocks(len(sums), num_resamples):
        total = cluster_weights(len(sums), rng, size) @ sums
        if binary:
            total += rng.standard_gamma(_ADDED, size=(size, 4)) @ np.column_stack([_OUTCOMES, np.ones(4)])
        blocks.append(total)
    totals = np.concatenate(blocks)
    return Means(totals[:, 0] / totals[:, 2], totals[:, 1] / totals[:, 2])


def _blocks(width: int, num_resamples: int) -> list[int]:
    """Sizes of blocks that hold a bounded number of weights each."""
    step = max(1, MAX_CELLS // width)
    return [min(step, num_resamples - start) for start in range(0, num_resamples, step)]


_FEWEST_BEYOND = 50
"""Resamples that must lie beyond a bound; a stricter level takes more resamples."""


class Bounds(NamedTuple):
    """Least and greatest retention above chance; each end holds on its own, at its own error rate."""

    value: float  # the retention of just these items
    low: float | None  # at least; None where the items cannot separate the original model from chance at this level
    high: float | None  # at most; None as above
    n: int  # number of items


def retention_bounds(
    uncut: Sequence[float] | Array,
    cut: Sequence[float] | Array,
    *,
    chance: float,
    low_error: float,
    high_error: float,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Bounds:
    """Bounds of (cut - chance) / (uncut - chance), from N items that both models answered.

    The retention is at least k where the mean of x_i = (cut_i - chance) - k (uncut_i - chance) is at least 0, and x_i
    lies in a known range. Gaffke's bound for such a mean: a Bayesian bootstrap of the items and one more, the worst
    there can be (right in the original model only), and of its draws the low_error quantile (Math. Methods Statist. 14,
    2005; arXiv:1905.06208). The upper bound adds the best item in place of the worst. Where items share contexts, whole
    contexts are reweighted and the added one is as large as they are on average.

    ``uncut`` and ``cut`` are N scores from 0 to 1 of the same items; ``low_error`` is the probability of a lower bound
    above the truth, ``high_error`` that of an upper bound below it. A strict level raises the number of resamples R.

    Raises:
        InputError: values outside 0 to 1, not one of each model per item, or an error rate that is no probability.
    """
    before, after = finite_array(uncut), finite_array(cut)
    if len(before) != len(after):
        raise InputError(f"{len(before)} uncut and {len(after)} cut values came; give one of each per item.")
    if min(before.min(), after.min()) < 0 or max(before.max(), after.max()) > 1:
        raise InputError("bounds of a retention need scores from 0 to 1.")
    for error in (low_error, high_error):
        if not 0 < error < 1:
            raise InputError(f"an error rate of {error:g} cannot be; give one between 0 and 1, such as 0.05.")
    draws = max(num_resamples, math.ceil(_FEWEST_BEYOND / min(low_error, high_error)))
    n, above = len(before), float(before.mean()) - chance
    value = (float(after.mean()) - chance) / above if above else math.nan
    items, shapes = _units(before, after, cluster_codes(clusters, n))
    rng = np.random.default_rng(check_seed(seed))
    lower, upper = np.empty(draws), np.empty(draws)
    step = max(1, MAX_CELLS // len(items))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        totals = rng.standard_gamma(shapes, size=(size, len(items))) @ items
        added = rng.standard_gamma(1.0, size=(size, 1)) * (n / shapes.sum())
        lower[start : start + size] = _ratio(totals + added * (1.0, 0.0, 1.0), chance, void=-math.inf)
        upper[start : start + size] = _ratio(totals + added * (0.0, 1.0, 1.0), chance, void=math.inf)
    low = float(np.quantile(lower, low_error, method="lower"))
    high = float(np.quantile(upper, 1 - high_error, method="higher"))
    return Bounds(value, low if math.isfinite(low) else None, high if math.isfinite(high) else None, n)


def _units(before: Array, after: Array, codes: np.ndarray | None) -> tuple[Array, Array]:
    """Units that are reweighted, (K, 3) sums of uncut, cut and number of items, and counts of equal ones, (K,)."""
    if codes is None:
        pairs, counts = np.unique(np.stack([before, after], axis=1), axis=0, return_counts=True)
        return np.column_stack([pairs, np.ones(len(pairs))]), counts.astype(np.float64)
    sums = np.stack([cluster_sums(values, codes) for values in (before, after, np.ones_like(before))], axis=1)
    return sums, np.ones(len(sums))


def _ratio(totals: Array, chance: float, *, void: float) -> Array:
    """Retention of each draw; ``void`` where the original model would not be above chance."""
    below = totals[:, 0] / totals[:, 2] - chance
    ratio: Array = np.full(len(totals), void)
    np.divide(totals[:, 1] / totals[:, 2] - chance, below, out=ratio, where=below > 0)
    return ratio
