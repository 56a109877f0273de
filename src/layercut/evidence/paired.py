"""Paired comparison of two models on the same items: difference, retention, intervals, p-values."""

# Shapes: N items, R resamples.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import scipy

from layercut.errors import InputError
from layercut.evidence.bounds import Means, resampled_means
from layercut.evidence.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    MAX_CELLS,
    NUM_RESAMPLES,
    Array,
    Estimate,
    cluster_codes,
    cluster_sums,
    cluster_weights,
    finite_array,
    is_binary,
    mean_interval,
)
from layercut.seed import check_seed
from layercut.text import count_of


class Comparison(NamedTuple):
    """One metric of the original and the pruned model on the same items."""

    uncut: Estimate
    cut: Estimate
    difference: Estimate
    """cut - uncut; negative where the pruned model is worse."""
    retention: Estimate | None
    """cut / uncut; None where that has no meaning, see ``refused``."""
    retention_above_chance: Estimate | None
    """(cut - chance) / (uncut - chance): 1 has lost nothing, 0 is down to guessing. None where it has no meaning."""
    lost: int | None
    """Items right in the uncut and wrong in the pruned model; None for metrics that are not 0/1."""
    gained: int | None
    """Items wrong in the uncut and right in the pruned model."""
    p_value: float
    """Two-sided, of the hypothesis that cutting changed nothing."""
    refused: str
    """Reason, in words, for a retention that is None or has no interval; empty where both are given."""
    num_clusters: int | None = None
    """Contexts that the items share; None where each item stands alone."""
    test: str = ""
    """Test of the p-value: ``mcnemar``, ``sign-flip`` or ``clustered sign-flip``."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The inverse of ``plain_estimates``; other keys are passed over. Fields with a default may be missing."""
        known = {name: data[name] for name in cls._fields if name in data or name not in cls._field_defaults}
        estimates = {name: None if data[name] is None else Estimate(**data[name]) for name in cls._fields[:5]}
        return cls(**known | estimates)


class PairedItems(NamedTuple):
    """The values behind a row, one of each model per item."""

    uncut: Sequence[float]
    cut: Sequence[float]
    clusters: Sequence[str] | None = None  # contexts that the items share, if any
    ids: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PairedRow:
    """One metric of two models on the same items."""

    metric: str
    chance: float | None
    seed: int  # random seed of the resampling
    values: Comparison
    items: PairedItems | None = field(default=None, repr=False, compare=False)
    """Needed for bounds (layercut.evidence.bounds); None where only the summary is known."""

    @property
    def n(self) -> int:
        """Number of items that both models answered."""
        return self.values.uncut.n

    @property
    def kept_share(self) -> Estimate | None:
        """Retention above chance; raw retention for a metric without a chance level."""
        return self.values.retention if self.chance is None else self.values.retention_above_chance


@dataclass(frozen=True, kw_only=True)
class TaskRow(PairedRow):
    """One metric of one task and readout, of two models on the same items."""

    task: str
    version: int
    readout: str
    limit: int | None


def compare_paired(
    uncut: Sequence[float],
    cut: Sequence[float],
    *,
    chance: float | None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    clusters: Sequence[str] | None = None,
) -> Comparison:
    """Compare two models item by item.

    Difference and retentions carry 95 % percentile intervals of a Bayesian bootstrap over items (Rubin, "The Bayesian
    bootstrap", Ann. Statist. 9, 1981): both models' values of an item stay together. For 0/1 metrics half an item is
    added to each of the four outcomes (both right, only uncut right, only cut right, both wrong), as Agresti and Min do
    ("Simple improved confidence intervals for comparing matched proportions", Stat. Med. 24, 2005). Without it, two
    models that happen to agree on all of 50 items would get a difference of 0 with an interval of width zero. The
    p-value is McNemar's exact test for 0/1 metrics, otherwise a sign-flip permutation test of the mean difference.

    Where items share contexts, whole contexts are reweighted instead of items, and the sign-flip test flips whole
    contexts, for 0/1 metrics too; see layercut.evidence.intervals.

    Retention is refused where the uncut value is not above zero, and retention above chance where the original model is
    itself not above chance (lower end of its interval): a share of nothing is no number.

    Args:
        uncut: N values of the original model, one per item.
        cut: N values of the pruned model for the same items in the same order. The order of the pairs has no effect.
        chance: score of guessing in the metric's unit; None where the metric has none.
        seed: of the resampling.
        num_resamples: R.
        clusters: N names of the contexts that items share, such as a template; None where items stand alone.

    Raises:
        InputError: different numbers of values, no values, or a value that is not finite.
    """
    if len(uncut) != len(cut):
        raise InputError(
            f"{len(uncut)} uncut and {len(cut)} cut values came; a paired comparison needs one of each per item."
        )
    before, after = finite_array(uncut), finite_array(cut)
    codes = cluster_codes(clusters, len(before))
    # Summed in sorted order, so that floating point does not make the result depend on the order of the pairs.
    order = np.lexsort((after, before))
    before, after, codes = before[order], after[order], None if codes is None else codes[order]
    binary = is_binary(before) and is_binary(after)
    names = None if codes is None else [str(code) for code in codes]
    uncut_estimate, cut_estimate = (mean_interval(values, seed=seed, clusters=names) for values in (before, after))
    n, value, cut_value = len(before), uncut_estimate.value, cut_estimate.value
    means = resampled_means(before, after, codes, np.random.default_rng(check_seed(seed)), num_resamples)
    method = "bootstrap" if codes is None else "clustered bootstrap"
    refused: list[str] = []
    retention = above_chance = None
    if value > 0:
        retention = share_over_floor(value, cut_value, means, 0.0, n, method)
        if means is None:
            refused.append(f"no interval, as the items share fewer than {FEWEST_CLUSTERS} contexts")
        elif retention is None:
            refused.append(f"the uncut value is too near 0 for a ratio of {count_of(n, 'item')}")
    elif chance is not None or value == 0:
        refused.append("the uncut value is not above 0, so there is nothing to retain")
    else:
        refused.append("a value below 0, such as a log-likelihood, has no retention; see the difference")
    if chance is None:
        refused.append("this metric has no chance level")
    elif value <= chance or uncut_estimate.low is None or uncut_estimate.low <= chance:
        refused.append(f"the original model is not above chance ({chance:.3g}) on {count_of(n, 'item')}")
    else:
        above_chance = share_over_floor(value, cut_value, means, chance, n, method)
        if above_chance is None:
            refused.append(f"the original model is too near chance ({chance:.3g}) for a ratio of {count_of(n, 'item')}")

    lost, gained = (int((before > after).sum()), int((after > before).sum())) if binary else (None, None)
    if codes is not None:
        test, p_value = "clustered sign-flip", _sign_flip(cluster_sums(after - before, codes), seed)
    elif lost is not None and gained is not None:
        test, p_value = "mcnemar", mcnemar_test(lost, gained)
    else:
        test, p_value = "sign-flip", _sign_flip(after - before, seed)
    return Comparison(
        uncut=uncut_estimate,
        cut=cut_estimate,
        difference=estimate_change(value, cut_value, means, n, method),
        retention=retention,
        retention_above_chance=above_chance,
        lost=lost,
        gained=gained,
        p_value=p_value,
        refused="; ".join(refused),
        num_clusters=None if codes is None else int(codes.max()) + 1,
        test=test,
    )


def estimate_change(uncut: float, cut: float, means: Means | None, n: int, method: str) -> Estimate:
    """cut - uncut, with the middle 95 % of the draws; without an interval where there are none."""
    if means is None:
        return Estimate(cut - uncut, None, None, n, "none")
    return percentile_interval(cut - uncut, means.cut - means.uncut, n, method)


def share_over_floor(
    uncut: float, cut: float, means: Means | None, floor: float, n: int, method: str
) -> Estimate | None:
    """(cut - floor) / (uncut - floor); None if the denominator may as well be zero."""
    value = (cut - floor) / (uncut - floor)
    if means is None:
        return Estimate(value, None, None, n, "none")
    return ratio_interval(value, means.cut - floor, means.uncut - floor, n, method)


def percentile_interval(value: float, draws: Array, n: int, method: str) -> Estimate:
    """The middle 95 % of the draws, widened to hold the value itself: -1 where all items are lost."""
    if np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):  # every item shows the same: nothing is known of the spread
        return Estimate(value, None, None, n, "none")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, tail, method="lower"), np.quantile(draws, 1 - tail, method="higher")
    return Estimate(value, min(float(low), value), max(float(high), value), n, method)


def ratio_interval(value: float, above: Array, below: Array, n: int, method: str) -> Estimate | None:
    """Interval of a ratio; None if the denominator may as well be zero.

    Draws with a denominator of zero or less say nothing about the ratio, so they count as beyond both ends. Where they
    are more than a tail, an end is infinite.
    """
    void = below <= 0
    if void.mean() >= (1 - CONFIDENCE) / 2:
        return None
    draws = above[~void] / below[~void]
    if not void.any():
        return percentile_interval(value, draws, n, method)
    ends = [
        percentile_interval(value, np.concatenate([draws, np.full(void.sum(), end)]), n, method)
        for end in (draws.min(), draws.max())
    ]
    return ends[0]._replace(high=ends[1].high)


def ratio_of_sums(above: Array, below: Array, seed: int) -> Estimate:
    """A ratio of sums over the same items, with a 95 % interval of the Bayesian bootstrap, unless they are too few."""
    value, n = float(above.sum() / below.sum()), len(above)
    interval = None
    if n >= FEWEST_CLUSTERS:
        weights = cluster_weights(n, np.random.default_rng(check_seed(seed)), NUM_RESAMPLES)
        draws = weights @ np.stack([above, below], axis=1)
        interval = ratio_interval(value, draws[:, 0], draws[:, 1], n, "Bayesian bootstrap")
    return interval or Estimate(value, None, None, n, "none")


def _sign_flip(differences: Array, seed: int) -> float:
    """Permutation test of mean difference 0: swapping the models flips the sign of an item or of a context."""
    if len(differences) == 1 or not differences.any():
        return 1.0

    def mean(values: Array, axis: int) -> Array:
        return np.asarray(values.mean(axis=axis))

    result = scipy.stats.permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES - 1,
        batch=max(1, MAX_CELLS // len(differences)),
        random_state=np.random.default_rng(check_seed(seed)),
    )
    return float(result.pvalue)


def mcnemar_test(lost: int, gained: int) -> float:
    """The p-value of McNemar's exact test, two-sided, from the numbers of items that one model alone has right."""
    return float(scipy.stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
