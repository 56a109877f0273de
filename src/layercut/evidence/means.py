"""Means over tasks, with intervals: retained scores, scores of two models, values of answers."""

# Shapes: R resamples.

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from layercut.evidence.clusters import FEWEST_CLUSTERS, cluster_codes
from layercut.evidence.intervals import CONFIDENCE, NUM_RESAMPLES, Array, Estimate, finite_array, plain_estimates
from layercut.evidence.paired import percentile_interval, ratio_interval
from layercut.evidence.resampling import Means, resampled_means
from layercut.evidence.uses import is_written
from layercut.seed import check_seed

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.paired import TaskRow


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

    All tasks count the same; n is the number of items of all together. Refused where the original model is not above a
    floor.

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
        return MeanKept(_estimate(values, parts, None), why)
    return MeanKept(_estimate(values, parts, np.mean(draws, axis=0)), "")


def _kept(uncut: Array, cut: Array, part: TaskValues) -> Array:
    if part.is_log:
        return np.exp(cut - uncut)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(uncut > part.floor, (cut - part.floor) / (uncut - part.floor), np.nan)


def _estimate(values: Sequence[float], parts: Sequence[TaskValues], draws: Array | None) -> Estimate:
    value, n = fmean(values), sum(len(part.uncut) for part in parts)
    tail = (1 - CONFIDENCE) / 2
    if draws is None or np.isnan(draws).mean() >= tail or np.nanmax(draws) - np.nanmin(draws) < 1e-12:
        return Estimate(value, None, None, n, "none")
    # Draws without a ratio count as beyond both ends.
    low = np.quantile(np.where(np.isnan(draws), -np.inf, draws), tail, method="lower")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail, method="higher")
    return Estimate(value, min(float(low), value), max(float(high), value), n, "bootstrap")


Form = Literal["ranked", "written"]


class TaskMean(NamedTuple):
    """Two models on the same items of several tasks; every task counts the same, however many items it has."""

    tasks: tuple[str, ...]
    uncut: float
    cut: float
    difference: Estimate
    """cut - uncut; ``n`` is the number of items of all tasks."""
    retention: Estimate | None
    """cut / uncut; None where uncut is too near 0."""
    retention_above_chance: Estimate | None
    """(cut - chance) / (uncut - chance) of the means; None where uncut is too near chance, or a task has no chance
    level."""


def task_mean(rows: Sequence[TaskRow], *, num_resamples: int = NUM_RESAMPLES) -> TaskMean:
    """Mean over rows, each of another task, with the middle 95 % of a Bayesian bootstrap.

    Each task's items are reweighted by themselves, both models' values of an item together, as in ``compare_paired``;
    the draws are then averaged over tasks. A ratio is one of means, not a mean of ratios: a task that the original
    model solves no better than chance then hardly counts.
    """
    draws: list[Means | None] = []
    for number, row in enumerate(rows):
        assert row.items is not None
        before, after = finite_array(row.items.uncut), finite_array(row.items.cut)
        codes = cluster_codes(row.items.clusters, len(before))
        draws.append(resampled_means(before, after, codes, np.random.default_rng([row.seed, number]), num_resamples))
    known = [one for one in draws if one is not None]
    uncut, cut = fmean([row.values.uncut.value for row in rows]), fmean([row.values.cut.value for row in rows])
    chances = [row.chance for row in rows if row.chance is not None]
    n, means = sum(row.n for row in rows), None
    if len(known) == len(draws):
        means = Means(*(np.asarray(np.mean(side, axis=0)) for side in zip(*known, strict=True)))

    def kept(floor: float) -> Estimate | None:
        if uncut <= floor:
            return None
        value = (cut - floor) / (uncut - floor)
        if means is None:
            return Estimate(value, None, None, n, "none")
        return ratio_interval(value, means.cut - floor, means.uncut - floor, n, "bootstrap")

    difference = Estimate(cut - uncut, None, None, n, "none")
    if means is not None:
        difference = percentile_interval(cut - uncut, means.cut - means.uncut, n, "bootstrap")
    above = kept(fmean(chances)) if len(chances) == len(rows) else None
    return TaskMean(tuple(row.task for row in rows), uncut, cut, difference, kept(0.0), above)


class FormMean(NamedTuple):
    """The mean of one run's tasks of one form."""

    run: str
    form: Form
    mean: TaskMean

    @property
    def words(self) -> str:
        """``mean of 7 ranked tasks, n 448``."""
        return f"mean of {len(self.mean.tasks)} {self.form} tasks, n {self.mean.difference.n:,}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"run": self.run, "form": self.form, **plain_estimates(self.mean._asdict())}


def form_means(rows: Sequence[ComparisonRow]) -> list[FormMean]:
    """For each run and form with two tasks or more. Of a task, the main metric of the first readout of the form counts;
    likelihoods in nats do not."""
    found: list[FormMean] = []
    main = [row for row in rows if row.is_headline and row.is_share and row.items]
    for run in dict.fromkeys(row.cut.name for row in main):
        forms: dict[Form, dict[str, ComparisonRow]] = {"ranked": {}, "written": {}}
        for row in main:
            if row.cut.name == run:
                forms["written" if is_written(row.readout) else "ranked"].setdefault(row.task, row)
        found += [
            FormMean(run, form, task_mean(list(tasks.values()))) for form, tasks in forms.items() if len(tasks) > 1
        ]
    return found
