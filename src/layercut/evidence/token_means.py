"""Means over tokens, which come in answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layercut.errors import InputError
from layercut.evidence.clusters import FEWEST_CLUSTERS, cluster_weights
from layercut.evidence.intervals import NUM_RESAMPLES, Estimate, finite_array
from layercut.evidence.paired import CONFIDENCE, percentile_interval
from layercut.seed import check_seed


def token_mean(sums: Sequence[float], counts: Sequence[int], *, seed: int = 0) -> Estimate:
    """Mean over all tokens of some answers, with the 95 % interval of a Bayesian bootstrap over answers.

    The same as ``compare_paired`` gives for the difference of the tokens' values, with the answers as clusters.

    Args:
        sums: of each answer, over its tokens.
        counts: of each answer, its number of tokens.
        seed: of the bootstrap.

    Returns:
        ``n`` is the number of tokens. There is no interval where fewer than six answers have such tokens, or all
        weightings give the same.

    Raises:
        InputError: no tokens at all, or values that are not finite.
    """
    totals = np.stack([finite_array(sums), finite_array(counts)], axis=1)
    totals = totals[totals[:, 1] > 0]
    if not len(totals):
        raise InputError("a mean over no tokens has no value; give answers that have some.")
    total, n = totals.sum(axis=0)
    if len(totals) < FEWEST_CLUSTERS:
        return Estimate(total / n, None, None, int(n), "none")
    rng = np.random.default_rng(check_seed(seed))
    draws = cluster_weights(len(totals), CONFIDENCE, rng, NUM_RESAMPLES) @ totals
    return percentile_interval(total / n, draws[:, 0] / draws[:, 1], int(n), "clustered bootstrap")
