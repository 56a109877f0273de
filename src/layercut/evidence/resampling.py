"""Means of two models under many random weightings of the same items, or of the contexts that items share."""

# Shapes: N items, R resamples, K different pairs of values, or clusters.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layercut.evidence.clusters import FEWEST_CLUSTERS, cluster_sums, cluster_weights
from layercut.evidence.intervals import CONFIDENCE, MAX_CELLS, NUM_RESAMPLES, Array, is_binary
from layercut.seed import check_seed

METHOD = "Bayesian bootstrap"
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

    Args:
        before: N values of the original model.
        after: N values of the pruned model, in the same order.
        codes: cluster of each item, 0 to K - 1; None where items stand alone.
        rng: what draws.
        num_resamples: R.

    Returns:
        The means, or None where there are too few clusters to resample.
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
        total = cluster_weights(len(sums), CONFIDENCE, rng, size) @ sums
        if binary:
            total += rng.standard_gamma(_ADDED, size=(size, 4)) @ np.column_stack([_OUTCOMES, np.ones(4)])
        blocks.append(total)
    totals = np.concatenate(blocks)
    return Means(totals[:, 0] / totals[:, 2], totals[:, 1] / totals[:, 2])


def _blocks(width: int, num_resamples: int) -> list[int]:
    """Sizes of blocks that hold a bounded number of weights each."""
    step = max(1, MAX_CELLS // width)
    return [min(step, num_resamples - start) for start in range(0, num_resamples, step)]


def resampled_sums(columns: Array, codes: NDArray[np.intp] | None, seed: int) -> Array | None:
    """Sums of columns (columns, N) under random weights of the items, or of what items share: (R, columns); None where
    those are too few.
    """
    codes = np.arange(columns.shape[1]) if codes is None else codes
    num = int(codes.max()) + 1
    if num < FEWEST_CLUSTERS:
        return None
    rng = np.random.default_rng(check_seed(seed))
    return cluster_weights(num, CONFIDENCE, rng, NUM_RESAMPLES) @ np.stack(
        [cluster_sums(column, codes) for column in columns], axis=1
    )
