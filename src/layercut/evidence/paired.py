"""The uncut and the cut model on the same items: what was lost, and how sure that is.

Every item is answered by both models, so the comparison is made within items. That is much sharper than two separate
intervals: items that are hard for both models cancel.
"""

# Shapes: N items, R resamples, K different pairs of values.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import binomtest, permutation_test

from layercut.errors import InputError
from layercut.evidence.intervals import (
    MAX_CELLS,
    NUM_RESAMPLES,
    Array,
    Estimate,
    finite_array,
    is_binary,
    mean_interval,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """One metric of the uncut and the cut model on the same items."""

    uncut: Estimate
    cut: Estimate
    difference: Estimate
    """cut - uncut; negative where the cut model is worse."""
    retention: Estimate | None
    """cut / uncut; None where that has no meaning, see ``refused``."""
    retention_above_chance: Estimate | None
    """(cut - chance) / (uncut - chance): 1 has lost nothing, 0 is down to guessing. None where it has no meaning."""
    lost: int | None
    """Items right in the uncut and wrong in the cut model; None for metrics that are not 0/1."""
    gained: int | None
    """Items wrong in the uncut and right in the cut model."""
    p_value: float
    """Of the hypothesis that cutting changed nothing; two-sided."""
    refused: str
    """Why a retention is None, in words; empty where both are given."""


def compare_paired(
    uncut: Sequence[float],
    cut: Sequence[float],
    *,
    chance: float | None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare two models item by item.

    Difference and retentions carry 95 % percentile intervals of a Bayesian bootstrap over items (Rubin, "The Bayesian
    bootstrap", Ann. Statist. 9, 1981): both models' values of an item stay together. For 0/1 metrics half an item is
    added to each of the four outcomes (both right, only uncut right, only cut right, both wrong), as Agresti and Min do
    ("Simple improved confidence intervals for comparing matched proportions", Stat. Med. 24, 2005). Without it, two
    models that happen to agree on all of 50 items would get a difference of 0 with an interval of width zero. The
    p-value is McNemar's exact test for 0/1 metrics, otherwise a sign-flip permutation test of the mean difference.

    Retention is refused where the uncut value is not above zero, and retention above chance where the uncut model is
    itself not above chance (lower end of its interval): a share of nothing is no number.

    Args:
        uncut: N values of the uncut model, one per item.
        cut: N values of the cut model for the same items in the same order. The order of the pairs has no effect.
        chance: score of guessing in the metric's unit; None where the metric has none.
        seed: of the resampling.
        num_resamples: R.

    Raises:
        InputError: different numbers of values, no values, or a value that is not finite.
    """
    if len(uncut) != len(cut):
        raise InputError(
            f"{len(uncut)} uncut and {len(cut)} cut values came; a paired comparison needs one of each per item."
        )
    before, after = finite_array(uncut), finite_array(cut)
    # Summed in sorted order, so that floating point does not make the result depend on the order of the pairs.
    before, after = np.stack([before, after])[:, np.lexsort((after, before))]
    binary = is_binary(before) and is_binary(after)
    uncut_estimate, cut_estimate = mean_interval(before, seed=seed), mean_interval(after, seed=seed)
    n, value, cut_value = len(before), uncut_estimate.value, cut_estimate.value
    means = _resampled_means(before, after, binary, np.random.default_rng(seed), num_resamples)
    difference = _percentile(cut_value - value, means.cut - means.uncut, n)

    refused: list[str] = []
    retention = above_chance = None
    if value <= 0:
        refused.append("the uncut value is not above 0, so there is nothing to retain")
    else:
        retention = _ratio(cut_value / value, means.cut, means.uncut, n)
        if retention is None:
            refused.append(f"the uncut value is too near 0 for a ratio of {_items(n)}")
    if chance is None:
        refused.append("this metric has no chance level")
    elif value <= chance or uncut_estimate.low is None or uncut_estimate.low <= chance:
        refused.append(f"the uncut model is not above chance ({chance:.3g}) on {_items(n)}")
    else:
        above_chance = _ratio((cut_value - chance) / (value - chance), means.cut - chance, means.uncut - chance, n)
        if above_chance is None:
            refused.append(f"the uncut model is too near chance ({chance:.3g}) for a ratio of {_items(n)}")

    lost = int((before > after).sum()) if binary else None
    gained = int((after > before).sum()) if binary else None
    return Comparison(
        uncut_estimate,
        cut_estimate,
        difference,
        retention,
        above_chance,
        lost,
        gained,
        _mcnemar(lost, gained) if lost is not None and gained is not None else _sign_flip(after - before, seed),
        "; ".join(refused),
    )


class _Means(NamedTuple):
    uncut: Array
    cut: Array


def _resampled_means(before: Array, after: Array, binary: bool, rng: np.random.Generator, num_resamples: int) -> _Means:
    """Means of both models under R random weightings of the items, each (R,).

    A weighting depends on equal pairs only through their number, so one Dirichlet weight per *different* pair will do:
    K <= 4 for 0/1 metrics, however many items there are.
    """
    pairs, counts = np.unique(np.stack([before, after], axis=1), axis=0, return_counts=True)
    alpha = counts.astype(np.float64)
    if binary:
        alpha = np.full(4, 0.5)
        for (u, c), count in zip(pairs, counts, strict=True):
            alpha[int(2 * u + c)] += count
        pairs = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
    step = max(1, MAX_CELLS // len(alpha))
    blocks = [
        rng.dirichlet(alpha, size=min(step, num_resamples - start)) @ pairs for start in range(0, num_resamples, step)
    ]
    means = np.concatenate(blocks)
    return _Means(means[:, 0], means[:, 1])


def _percentile(value: float, draws: Array, n: int) -> Estimate:
    """The middle 95 % of the draws, widened to hold the value itself: -1 where all items are lost."""
    if np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):  # every item shows the same: nothing is known of the spread
        return Estimate(value, None, None, n, "none")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, tail, method="lower"), np.quantile(draws, 1 - tail, method="higher")
    return Estimate(value, min(float(low), value), max(float(high), value), n, "bootstrap")


def _ratio(value: float, above: Array, below: Array, n: int) -> Estimate | None:
    """Interval of a ratio; None if the denominator may as well be zero.

    Draws with a denominator of zero or less say nothing about the ratio, so they count as beyond both ends. Where they
    are more than a tail, an end is infinite.
    """
    void = below <= 0
    if void.mean() >= (1 - CONFIDENCE) / 2:
        return None
    draws = above[~void] / below[~void]
    if not void.any():
        return _percentile(value, draws, n)
    ends = [
        _percentile(value, np.concatenate([draws, np.full(void.sum(), end)]), n) for end in (draws.min(), draws.max())
    ]
    return ends[0]._replace(high=ends[1].high)


def _mcnemar(lost: int, gained: int) -> float:
    """McNemar's exact test: of the items on which the models differ, does one side win more than a coin would?"""
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def _sign_flip(differences: Array, seed: int) -> float:
    """Permutation test of mean difference 0: swapping the two models of an item flips the sign of its difference."""
    if len(differences) == 1 or not differences.any():
        return 1.0

    def mean(values: Array, axis: int) -> Array:
        return np.asarray(values.mean(axis=axis))

    result = permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES - 1,
        batch=max(1, MAX_CELLS // len(differences)),
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _items(n: int) -> str:
    return "1 item" if n == 1 else f"{n} items"
