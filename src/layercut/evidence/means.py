"""Means over tasks, with intervals: retained scores, scores of two models, values of answers."""

# Shapes: R resamples.

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from layercut.evidence.bounds import Means, resampled_means
from layercut.evidence.intervals import (
    CONFIDENCE,
    FEWEST_CLUSTERS,
    NUM_RESAMPLES,
    Array,
    Estimate,
    cluster_codes,
    cluster_weights,
    finite_array,
)
from layercut.evidence.paired import TaskRow, estimate_change, percentile_interval, share_over_floor
from layercut.evidence.uses import is_written
from layercut.seed import check_seed

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow


class TaskValues(NamedTuple):
    """One task: values of both models on the same items, in the same order."""

    name: str
    uncut: Sequence[float]
    cut: Sequence[float]
    floor: float  # subtracted from both; 0 for raw ratios
    clusters: Sequence[str] | None = None


class MeanKept(NamedTuple):
    """The mean, or why there is none."""

    estimate: Estimate | None
    refused: str


def mean_share_kept(parts: Sequence[TaskValues], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> MeanKept:
    """Mean over tasks of (cut - floor) / (uncut - floor), with the middle 95 % of a Bayesian bootstrap.

    Each task's items are reweighted by themselves, as in ``compare_paired``; the draws are then averaged over tasks,
    which all count the same. Where more than 2.5 % of the draws have a denominator of 0 or less, there is no interval.
    Refused where the original model is not above a floor.
    """
    uncut = [finite_array(part.uncut).mean() for part in parts]
    cut = [finite_array(part.cut).mean() for part in parts]
    for part, before in zip(parts, uncut, strict=True):
        if before <= part.floor:
            return MeanKept(None, f"the original model is not above {part.floor:.3g} on these items of {part.name}")
    value = fmean([float(_kept(*of_part)) for of_part in zip(uncut, cut, parts, strict=True)])
    n = sum(len(part.uncut) for part in parts)
    means = _means_by_task([(part.uncut, part.cut, part.clusters, seed) for part in parts], num_resamples)
    few = [part.name for part, of_part in zip(parts, means, strict=True) if of_part is None]
    if few:
        reason = f"no interval, as the items of {', '.join(few)} share fewer than {FEWEST_CLUSTERS} contexts"
        return MeanKept(Estimate(value, None, None, n, "none"), reason)
    kept = [_kept(*of_part, part) for of_part, part in zip(means, parts, strict=True) if of_part is not None]
    draws, tail = np.mean(kept, axis=0), (1 - CONFIDENCE) / 2
    if np.isnan(draws).mean() >= tail or np.nanmax(draws) - np.nanmin(draws) < 1e-12:
        return MeanKept(Estimate(value, None, None, n, "none"), "")
    # Draws without a ratio count as beyond both ends.
    low = np.quantile(np.where(np.isnan(draws), -np.inf, draws), tail, method="lower")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail, method="higher")
    return MeanKept(Estimate(value, min(float(low), value), max(float(high), value), n, "bootstrap"), "")


def _kept(uncut: Array, cut: Array, part: TaskValues) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(uncut > part.floor, (cut - part.floor) / (uncut - part.floor), np.nan)


def _means_by_task(
    tasks: Sequence[tuple[Sequence[float], Sequence[float], Sequence[str] | None, int]], num_resamples: int
) -> list[Means | None]:
    """Draws of each task, by its values of both models, clusters and seed, from a generator of its own."""
    draws = []
    for number, (uncut, cut, clusters, seed) in enumerate(tasks):
        rng = np.random.default_rng([check_seed(seed), number])
        codes = cluster_codes(clusters, len(uncut))
        draws.append(resampled_means(finite_array(uncut), finite_array(cut), codes, rng, num_resamples))
    return draws


class TaskMean(NamedTuple):
    """Two models on the same items of several tasks; every task counts the same, however many items it has."""

    tasks: tuple[str, ...]
    uncut: float
    cut: float
    difference: Estimate  # cut - uncut; ``n`` is the number of items of all tasks
    retention: Estimate | None  # cut / uncut; None where uncut is too near 0
    retention_above_chance: Estimate | None
    """(cut - chance) / (uncut - chance) of the means; None where uncut is too near chance, or a task has no chance
    level."""
    over_tasks: Estimate | None = None
    """cut - uncut with an interval for other tasks like these: whole tasks are resampled. None for fewer than six."""


def mean_of_tasks(rows: Sequence[TaskRow], *, num_resamples: int = NUM_RESAMPLES) -> TaskMean:
    """Mean over rows, each of another task, with the middle 95 % of a Bayesian bootstrap.

    Draws are those of ``mean_share_kept``. A ratio is one of means, not a mean of ratios: a task that the original
    model solves no better than chance then hardly counts.
    """
    items = [row.items for row in rows if row.items is not None]
    tasks = [(side.uncut, side.cut, side.clusters, row.seed) for side, row in zip(items, rows, strict=True)]
    draws = _means_by_task(tasks, num_resamples)
    known = [of_task for of_task in draws if of_task is not None]
    means = None
    if len(known) == len(draws):
        means = Means(*(np.asarray(np.mean(side, axis=0)) for side in zip(*known, strict=True)))
    uncut, cut = fmean([row.values.uncut.value for row in rows]), fmean([row.values.cut.value for row in rows])
    chances, n = [row.chance for row in rows if row.chance is not None], sum(row.n for row in rows)
    retention = above_chance = None
    if uncut > 0:
        retention = share_over_floor(uncut, cut, means, 0.0, n, "bootstrap")
    if len(chances) == len(rows) and uncut > (chance := fmean(chances)):
        above_chance = share_over_floor(uncut, cut, means, chance, n, "bootstrap")
    names, over_tasks = tuple(row.task for row in rows), None
    difference = estimate_change(uncut, cut, means, n, "bootstrap")
    if (k := len(rows)) >= FEWEST_CLUSTERS:
        weights = cluster_weights(k, np.random.default_rng([check_seed(rows[0].seed), k]), num_resamples)
        changes = weights @ [row.values.difference.value for row in rows] / weights.sum(axis=1)
        over_tasks = percentile_interval(cut - uncut, changes, k, "bootstrap of tasks")
    return TaskMean(names, uncut, cut, difference, retention, above_chance, over_tasks)


def overall_means(rows: Sequence[ComparisonRow]) -> dict[str, TaskMean]:
    """Means over tasks of ``ranked`` and of ``written`` answers, never of both: of each task the main metric of its
    first such readout. Kinds with fewer than two tasks have none. Nats do not count.
    """
    tasks: dict[str, dict[str, ComparisonRow]] = {"ranked": {}, "written": {}}
    for row in rows:
        if row.is_headline and row.is_share and row.items and not row.group:
            tasks["written" if is_written(row.readout) else "ranked"].setdefault(row.task, row)
    return {kind: mean_of_tasks(list(of_kind.values())) for kind, of_kind in tasks.items() if len(of_kind) > 1}
