"""Confidence intervals of a mean over n items, which may share contexts.

Items are treated as a random draw from all the items a task could ask. Items that share a template or a subject are
not, but their contexts are. Formulas and papers: docs/reference/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from layercut.errors import InputError
from layercut.seed import check_seed

# Shapes: N items, K clusters, R resamples.


Array = NDArray[np.float64]
CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
MAX_CELLS = 4_000_000
"""Resampled values held at once, 32 MB; keeps a task of ten thousand items from filling the memory."""
FEWEST_CLUSTERS = 6
"""With fewer, whole clusters cannot be resampled: there is no interval of a difference or a ratio."""


def clusters_of(records: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The ``cluster`` of each record of an evaluation; None where any record has none."""
    clusters = [str(record["cluster"]) for record in records if record.get("cluster") is not None]
    return clusters if records and len(clusters) == len(records) else None


def cluster_codes(clusters: Sequence[str] | None, n: int) -> NDArray[np.intp] | None:
    """A number from 0 to K - 1 for each item, by sorted name; None without clusters, with one per item or one for all.

    InputError: not one name per item.
    """
    if clusters is None:
        return None
    if len(clusters) != n:
        raise InputError(f"{len(clusters)} clusters came for {n} items; give one per item, or None.")
    names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return None if len(names) in (1, n) else codes.reshape(-1)


def clustered_standard_error(values: Array, codes: NDArray[np.intp]) -> float:
    """Standard error of a mean whose items come in clusters: Miller's, times sqrt(K / (K - 1))."""
    sums = np.bincount(codes, weights=values - values.mean())
    k = len(sums)
    return float(np.sqrt((sums**2).sum() * k / (k - 1)) / len(values))


def effective_items(values: Array, codes: NDArray[np.intp]) -> float:
    """Number of independent right-or-wrong items that carry as much information about the share as these N.

    N / design effect, at least 1, times (z / t_{K-1})^2 (Korn and Graubard). A share of 0 or 1 does not show how alike
    the items of a cluster are; there each cluster counts as one.
    """
    n, k = len(values), int(codes.max()) + 1
    share = float(values.mean())
    if share in (0.0, 1.0):
        return float(k)
    design_effect = max(1.0, clustered_standard_error(values, codes) ** 2 / (share * (1 - share) / n))
    return n / design_effect * _shrinkage(k)


def cluster_sums(values: Array, codes: NDArray[np.intp]) -> Array:
    """Sum of the values of each cluster, (K,)."""
    return np.bincount(codes, weights=values).astype(np.float64)


def cluster_weights(k: int, rng: np.random.Generator, num_resamples: int) -> Array:
    """R random weightings of whole clusters for a Bayesian bootstrap, (R, K), not normalised.

    With this shape of Gamma weights a mean varies as in Student's interval for K clusters; shape 1 would be too narrow.
    """
    if k < FEWEST_CLUSTERS:
        raise AssertionError(f"{k} clusters cannot be resampled")
    shape = ((k - 1) * _shrinkage(k) - 1) / k
    return rng.standard_gamma(shape, size=(num_resamples, k))


def _shrinkage(k: int) -> float:
    tail = (1 + CONFIDENCE) / 2
    return math.pow(float(scipy.stats.norm.ppf(tail)) / float(scipy.stats.t.ppf(tail, k - 1)), 2)


class Estimate(NamedTuple):
    """A value and the interval around it."""

    value: float
    low: float | None
    """Lower end; None when the items cannot say (see mean_interval)."""
    high: float | None
    """Upper end; None together with ``low``."""
    n: int
    """Number of items."""
    method: str
    """Kind of the interval: ``wilson``, ``bca``, ``percentile``, ``bootstrap`` (paired), ``fisher``,
    ``none``; ``clustered wilson``, ``clustered t`` or ``clustered bootstrap`` where items share contexts."""


def plain_estimates(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, JSON-able: each estimate as a dict."""
    return {name: value._asdict() if isinstance(value, Estimate) else value for name, value in fields.items()}


@lru_cache(maxsize=4096)  # scipy tests a hypothesis on the way; a sweep asks for the same share at every layer
def proportion_interval(successes: int, n: int) -> Estimate:
    """Share of successes with its Wilson score interval. InputError: no items, or more successes than items."""
    if n < 1:
        raise InputError("a share of no items has no value; give at least one item.")
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} items cannot be; successes go from 0 to {n}.")
    interval = scipy.stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n, "wilson")


def mean_interval(values: Sequence[float] | Array, seed: int = 0, *, clusters: Sequence[str] | None = None) -> Estimate:
    """Mean with its interval: Wilson for values that are all 0 or 1, a bootstrap over items for all others.

    The bootstrap is BCa, and falls back to percentiles where that is not defined. Values of a metric that is not 0/1
    and that are all equal carry no information about its spread: there the ends are None and the method is ``none``.
    Where items share contexts, a Wilson interval of the effective number of items, or the mean with its clustered
    standard error and Student's t. InputError: no values, or one that is not finite.
    """
    array = finite_array(values)
    codes = cluster_codes(clusters, len(array))
    if codes is not None and is_binary(array):
        return _wilson(float(array.mean()), len(array), effective_items(array, codes))
    if is_binary(array):
        return proportion_interval(int(array.sum()), len(array))
    mean = float(array.mean())
    if np.ptp(array) == 0:
        return Estimate(mean, None, None, len(array), "none")
    if codes is not None:
        student = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, int(codes.max())))
        reach = student * clustered_standard_error(array, codes)
        return Estimate(mean, mean - reach, mean + reach, len(array), "clustered t")
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"):
            interval = scipy.stats.bootstrap(
                (array,),
                np.mean,
                confidence_level=CONFIDENCE,
                n_resamples=NUM_RESAMPLES,
                batch=max(1, MAX_CELLS // len(array)),
                method=method,
                random_state=np.random.default_rng(check_seed(seed)),
            ).confidence_interval
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            return Estimate(mean, float(interval.low), float(interval.high), len(array), method.lower())
    raise AssertionError("a percentile interval of finite values is finite")


def geometric_mean_ratio(uncut: Sequence[float], cut: Sequence[float]) -> Estimate:
    """Geometric mean of cut / uncut over paired rounds, with a 95 % interval of Student's t of its logarithm.

    >>> [round(end, 2) for end in geometric_mean_ratio([1.0, 2.0, 4.0], [2.0, 4.2, 7.8])[:3]]
    [2.02, 1.84, 2.21]
    """
    logs = np.log(np.asarray(cut) / np.asarray(uncut))
    n, mean = len(logs), float(logs.mean())
    if n < 2 or np.ptp(logs) == 0:
        return Estimate(math.exp(mean), None, None, n, "none")
    reach = float(scipy.stats.t.ppf(0.975, n - 1) * logs.std(ddof=1) / math.sqrt(n))
    return Estimate(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), n, "t of logarithms")


def _wilson(share: float, n: int, effective: float) -> Estimate:
    """Wilson's interval of a share for a number of items that is not whole; scipy's takes whole counts only."""
    z_squared = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    centre = (share + z_squared / (2 * effective)) / (1 + z_squared / effective)
    reach = math.sqrt(z_squared * (share * (1 - share) / effective + z_squared / (4 * effective**2)))
    reach /= 1 + z_squared / effective
    # The ends of a share of 0 and of 1 are these numbers; floating point may miss them.
    low, high = max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))
    return Estimate(share, low, high, n, "clustered wilson")


def is_binary(array: Array) -> bool:
    """Return True where all values are 0 or 1."""
    return bool(np.isin(array, (0.0, 1.0)).all())


def finite_array(values: Sequence[float] | Array) -> Array:
    """The values as float64; refuses none at all, NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError("a mean over no items has no value; give at least one item.")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"the value of item {where} is {array[where]}; scores must be finite numbers.")
    return array


ALPHA = 0.05
"""A difference counts where its adjusted p-value is below this."""


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; InputError: a value outside [0, 1], or NaN.

    The i-th smallest of m becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1.
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


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate from one problem, n samples of which c are right: 1 - C(n - c, k) / C(n, k).

    arXiv:2107.03374. InputError: k above n, or counts that cannot be.

    >>> pass_at_k(2, 1, 1), pass_at_k(4, 1, 2), pass_at_k(5, 3, 3)
    (0.5, 0.5, 1.0)
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise InputError(f"pass@{k} of {num_samples} programs with {num_correct} right cannot be; draw at least {k}.")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)
