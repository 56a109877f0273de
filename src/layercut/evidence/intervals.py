"""How far a mean over n items can be trusted.

Every aggregate that layercut prints is an Estimate: the value, an interval, how many items it rests on and how the
interval was made. Items are taken as a random draw from all the items a task could ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from layercut.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]

NUM_RESAMPLES = 10_000
MAX_CELLS = 4_000_000
"""Resampled values held at once, 32 MB; keeps a task of ten thousand items from filling the memory."""


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
    """How the interval was made: ``wilson``, ``bca``, ``percentile``, ``bootstrap`` (paired) or ``none``."""


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of successes with its Wilson score interval.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). It keeps its level
    near 0 and 1, where the textbook interval p +- 2 s collapses to a point: 0 of 20 is [0, 0.161], not [0, 0].

    Raises:
        InputError: no items, or more successes than items.
    """
    if n < 1:
        raise InputError("a share of no items has no value; give at least one item.")
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} items cannot be; successes go from 0 to {n}.")
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n, "wilson")


def mean_interval(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean with its interval: Wilson for values that are all 0 or 1, a bootstrap over items for all others.

    The bootstrap is bias-corrected and accelerated (BCa; Efron, "Better bootstrap confidence intervals", JASA 82, 1987)
    with 10,000 resamples, and falls back to percentiles where BCa is not defined. One value, or values that are all
    equal, tell nothing about the spread of a metric that is not 0/1: resampling them would give an interval of width
    zero. There the ends are None and the method is ``none``.

    Args:
        values: one number per item, any unit; the interval has the same unit.
        confidence: level of the interval, two-sided.
        seed: of the resampling; the same values in the same order and the same seed give the same interval.

    Raises:
        InputError: no values, or a value that is not finite.
    """
    array = finite_array(values)
    if is_binary(array):
        return proportion_interval(int(array.sum()), len(array), confidence)
    mean = float(array.mean())
    if np.ptp(array) == 0:
        return Estimate(mean, None, None, len(array), "none")
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"):
            interval = bootstrap(
                (array,),
                np.mean,
                confidence_level=confidence,
                n_resamples=NUM_RESAMPLES,
                batch=max(1, MAX_CELLS // len(array)),
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            return Estimate(mean, float(interval.low), float(interval.high), len(array), method.lower())
    raise AssertionError("a percentile interval of finite values is finite")


def is_binary(array: Array) -> bool:
    """Whether all values are 0 or 1."""
    return bool(np.isin(array, (0.0, 1.0)).all())


def finite_array(values: Sequence[float]) -> Array:
    """The values as float64; refuses none at all, NaN and infinity."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError("a mean over no items has no value; give at least one item.")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"the value of item {where} is {array[where]}; scores must be finite numbers.")
    return array
