"""Clustered items: items that share a template or a subject are not independent draws, but the contexts are.

Twenty questions from one template may carry hardly more information than one. Miller, "Adding Error Bars to Evals",
arXiv:2411.00640, section 2.2: clustered standard errors. Answers to one item under several seeds are clusters too: one
value per item and seed, with the item's id as its cluster.
"""

# Shapes: N items, K clusters, R resamples.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from layercut.errors import InputError

Array = NDArray[np.float64]

FEWEST_CLUSTERS = 6
"""With fewer, whole clusters cannot be resampled: there is no interval of a difference or a ratio."""


def clusters_of(records: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The ``cluster`` of each record of an evaluation; None where any record has none."""
    clusters = [str(record["cluster"]) for record in records if record.get("cluster") is not None]
    return clusters if records and len(clusters) == len(records) else None


def cluster_codes(clusters: Sequence[str] | None, n: int) -> NDArray[np.intp] | None:
    """A number from 0 to K - 1 for each item, by sorted name; None where there is nothing to correct for.

    That is the case without clusters, where every item has its own, and where all items share one: the number is then
    about this one context.

    Raises:
        InputError: not one name per item.
    """
    if clusters is None:
        return None
    if len(clusters) != n:
        raise InputError(f"{len(clusters)} clusters came for {n} items; give one per item, or None.")
    names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return None if len(names) in (1, n) else codes.reshape(-1)


def clustered_standard_error(values: Array, codes: NDArray[np.intp]) -> float:
    """Standard error of a mean whose items come in clusters.

    SE = sqrt(sum over clusters of (sum over its items of (s_i - mean))^2) / N, Miller's clustered one (the products
    across items of one cluster are added to those of the items). Times sqrt(K / (K - 1)), as for a few clusters it
    would be too small.
    """
    sums = np.bincount(codes, weights=values - values.mean())
    k = len(sums)
    return float(np.sqrt((sums**2).sum() * k / (k - 1)) / len(values))


def effective_items(values: Array, codes: NDArray[np.intp], confidence: float) -> float:
    """Number of independent right-or-wrong items that carry as much information about the share as these N.

    N / design effect, where the design effect is the clustered over the plain variance of the mean, at least 1; times
    (z / t_{K-1})^2, as the spread between K clusters is itself an estimate. Korn and Graubard, "Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data", Survey Methodology 24
    (1998). A share of 0 or 1 does not show how alike the items of a cluster are; there each cluster counts as one.
    """
    n, k = len(values), int(codes.max()) + 1
    share = float(values.mean())
    if share in (0.0, 1.0):
        return float(k)
    design_effect = max(1.0, clustered_standard_error(values, codes) ** 2 / (share * (1 - share) / n))
    return n / design_effect * _shrinkage(k, confidence)


def half_width(values: Array, codes: NDArray[np.intp], confidence: float) -> float:
    """Half of an interval of a mean: clustered standard error times Student's t with K - 1 degrees of freedom."""
    k = int(codes.max()) + 1
    return float(scipy.stats.t.ppf((1 + confidence) / 2, k - 1)) * clustered_standard_error(values, codes)


def cluster_sums(values: Array, codes: NDArray[np.intp]) -> Array:
    """Sum of the values of each cluster, (K,)."""
    return np.bincount(codes, weights=values).astype(np.float64)


def cluster_weights(k: int, confidence: float, rng: np.random.Generator, num_resamples: int) -> Array:
    """R random weightings of whole clusters for a Bayesian bootstrap, (R, K), not normalised.

    Gamma weights of shape a make a mean vary by spread / (K a + 1). With a = ((K - 1) (z / t_{K-1})^2 - 1) / K this is
    the variance of Student's interval for K clusters, while shape 1 would be too narrow for few.
    """
    if k < FEWEST_CLUSTERS:
        raise AssertionError(f"{k} clusters cannot be resampled")
    shape = ((k - 1) * _shrinkage(k, confidence) - 1) / k
    return rng.standard_gamma(shape, size=(num_resamples, k))


def _shrinkage(k: int, confidence: float) -> float:
    tail = (1 + confidence) / 2
    return math.pow(float(scipy.stats.norm.ppf(tail)) / float(scipy.stats.t.ppf(tail, k - 1)), 2)
