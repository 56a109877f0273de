"""Mean retained score over tasks, the value that searches by task scores maximise, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from layercut.evidence.clusters import FEWEST_CLUSTERS, cluster_codes
from layercut.evidence.intervals import NUM_RESAMPLES, Array, Estimate, finite_array
from layercut.evidence.paired import CONFIDENCE
from layercut.evidence.resampling import resampled_means
from layercut.seed import check_seed


class TaskValues(NamedTuple):
    """One task: values of both models on the same items, in the same order."""

    name: str
    uncut: Sequence[float]
    cut: Sequence[float]
    floor: float
    """Subtracted from both; 0 for raw ratios."""
    clusters: Sequence[str] | None = None
    is_log: bool = False
    """Values are log-likelihoods: what is kept is exp(cut - uncut)."""


class MeanKept(NamedTuple):
    """The mean, or why there is none."""

    estimate: Estimate | None
    refused: str


def mean_kept(parts: Sequence[TaskValues], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> MeanKept:
    """Mean over tasks of (cut - floor) / (uncut - floor), with the middle 95 % of a Bayesian bootstrap.

    Each task's items are reweighted by themselves, both models' values of an item together, as in ``compare_paired``;
    the draws are then averaged over tasks. Two readouts of the same items count as two tasks with items of their own,
    which makes the interval of such a mean a little too narrow. A draw whose denominator is 0 or less says nothing of
    a ratio; where more than 2.5 % of them are such, there is no interval.

    Args:
        parts: the tasks; all count the same.
        seed: of the resampling.
        num_resamples: draws.

    Returns:
        The estimate with n, the items of all tasks together; refused where the original model is not above a floor.

    Raises:
        InputError: no items in a part, or a value that is not finite.
    """
    values: list[float] = []
    draws: list[Array] = []
    few: list[str] = []
    for number, part in enumerate(parts):
        before, after = finite_array(part.uncut), finite_array(part.cut)
        if not part.is_log and before.mean() <= part.floor:
            return MeanKept(None, f"the original model is not above {part.floor:.3g} on these items of {part.name}")
        values.append(float(_kept(before.mean(), after.mean(), part)))
        codes = cluster_codes(part.clusters, len(before))
        means = resampled_means(before, after, codes, np.random.default_rng([check_seed(seed), number]), num_resamples)
        if means is None:
            few.append(part.name)
        else:
            draws.append(_kept(means.uncut, means.cut, part))
    if few:
        why = f"no interval, as the items of {', '.join(few)} share fewer than {FEWEST_CLUSTERS} contexts"
        return MeanKept(_mean(values, parts, None), why)
    return MeanKept(_mean(values, parts, np.mean(draws, axis=0)), "")


def _kept(uncut: Array, cut: Array, part: TaskValues) -> Array:
    if part.is_log:
        return np.exp(cut - uncut)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(uncut > part.floor, (cut - part.floor) / (uncut - part.floor), np.nan)


def _mean(values: Sequence[float], parts: Sequence[TaskValues], draws: Array | None) -> Estimate:
    value, n = math.fsum(values) / len(values), sum(len(part.uncut) for part in parts)
    tail = (1 - CONFIDENCE) / 2
    if draws is None or np.isnan(draws).mean() >= tail or np.nanmax(draws) - np.nanmin(draws) < 1e-12:
        return Estimate(value, None, None, n, "none")
    # Draws without a ratio count as beyond both ends.
    low = np.quantile(np.where(np.isnan(draws), -np.inf, draws), tail, method="lower")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail, method="higher")
    return Estimate(value, min(float(low), value), max(float(high), value), n, "bootstrap")
