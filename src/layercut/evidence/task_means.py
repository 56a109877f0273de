"""The mean of a model's scores over tasks, as papers report it: seven classification tasks, one number.

One task of 64 items leaves 10 points to each side of a difference, and seven of them together 4
(docs/experiments/qwen.md).
"""

# Shapes: R resamples.

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from layercut.evidence.clusters import cluster_codes
from layercut.evidence.intervals import NUM_RESAMPLES, Estimate, finite_array
from layercut.evidence.paired import percentile_interval, ratio_interval
from layercut.evidence.resampling import Means, resampled_means
from layercut.evidence.uses import is_written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.paired import TaskRow

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: one._asdict() if isinstance(one, Estimate) else one for name, one in self._asdict().items()}


def task_mean(rows: Sequence[TaskRow], *, num_resamples: int = NUM_RESAMPLES) -> TaskMean:
    """Mean over rows, each of another task, with the middle 95 % of a Bayesian bootstrap.

    Each task's items are reweighted by themselves, both models' values of an item together, as in ``compare_paired``;
    the draws are then averaged over tasks. A ratio is one of means, not a mean of ratios: a task that the original
    model solves no better than chance then hardly counts.

    Args:
        rows: with their items.
        num_resamples: R.
    """
    draws: list[Means | None] = []
    for number, row in enumerate(rows):
        assert row.items is not None
        before, after = finite_array(row.items.uncut), finite_array(row.items.cut)
        codes = cluster_codes(row.items.clusters, len(before))
        draws.append(resampled_means(before, after, codes, np.random.default_rng([row.seed, number]), num_resamples))
    known = [one for one in draws if one is not None]
    uncut, cut = _mean([row.values.uncut.value for row in rows]), _mean([row.values.cut.value for row in rows])
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
    above = kept(_mean(chances)) if len(chances) == len(rows) else None
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
        return {"run": self.run, "form": self.form, **self.mean.to_dict()}


def form_means(rows: Sequence[ComparisonRow]) -> list[FormMean]:
    """For each run and form with two tasks or more. Of a task, the main metric of the first readout of the form counts;
    likelihoods in nats and answers under a budget of tokens do not."""
    found: list[FormMean] = []
    main = [row for row in rows if row.is_headline and row.is_share and row.items and "@" not in row.readout]
    for run in dict.fromkeys(row.cut.name for row in main):
        forms: dict[Form, dict[str, ComparisonRow]] = {"ranked": {}, "written": {}}
        for row in main:
            if row.cut.name == run:
                forms["written" if is_written(row.readout) else "ranked"].setdefault(row.task, row)
        found += [
            FormMean(run, form, task_mean(list(tasks.values()))) for form, tasks in forms.items() if len(tasks) > 1
        ]
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
