"""Means over tasks and tokens."""

import numpy as np
import pytest

from layercut.evidence.means import TaskValues, mean_of_tasks, mean_share_kept
from layercut.evidence.paired import PairedItems, TaskRow, compare_paired


def test_the_value_is_the_mean_of_the_ratios_and_n_all_items():
    first = TaskValues("a", [1, 1, 1, 0], [1, 0, 0, 0], 0.0)
    second = TaskValues("b", [1.0, 0.6, 0.2, 0.6, 0.6], [0.6, 0.6, 0.2, 0.2, 0.4], 0.2)
    found = mean_share_kept([first, second])
    assert (found.refused, found.estimate.n) == ("", 9)
    assert found.estimate.value == pytest.approx((1 / 3 + 0.2 / 0.4) / 2)
    assert found.estimate.low < found.estimate.value < found.estimate.high
    assert mean_share_kept([first, second]) == found


def test_no_ratio_to_a_model_that_guesses_and_no_interval_of_few_contexts():
    guesses = mean_share_kept([TaskValues("a", [0, 1, 0, 1], [0, 0, 0, 1], 0.5)])
    assert guesses.refused.startswith("the original model is not above 0.5")
    near = mean_share_kept([TaskValues("a", [1, 1, 0, 1], [0, 0, 0, 1], 0.7)]).estimate
    assert near.low is near.high is None
    few = mean_share_kept([TaskValues("a", [1, 1, 1, 0], [1, 1, 0, 0], 0.0, clusters=["x", "x", "y", "y"])])
    assert few.estimate[:2] == (pytest.approx(2 / 3), None)
    assert "fewer than" in few.refused


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        parts = []
        for uncut, kept in ((0.8, 0.75), (0.6, 0.5)):
            before = rng.random(100) < uncut
            after = before & (rng.random(100) < kept)
            parts.append(TaskValues("t", list(before.astype(float)), list(after.astype(float)), 0.0))
        found = mean_share_kept(parts, seed=trial, num_resamples=1000).estimate
        hits += found.low <= 0.625 <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def row(before: list[float], after: list[float], chance: float | None = 0.25, *, clusters=None, **fields) -> TaskRow:
    values = compare_paired(before, after, chance=chance, num_resamples=50, clusters=clusters)
    shared = {"metric": "acc", "version": 1, "readout": "rank", "limit": None, "task": "t", "seed": 0} | fields
    return TaskRow(**shared, chance=chance, values=values, items=PairedItems(before, after, clusters))


def draw(rng: np.random.Generator, uncut: float, cut: float, n: int, seed: int = 0) -> TaskRow:
    """Items that both models solve, that only the original model solves, or neither."""
    level = rng.random(n)
    return row(list((level < uncut).astype(float)), list((level < cut).astype(float)), seed=seed)


def test_every_task_counts_the_same_and_the_ratio_is_one_of_means():
    large = row([1.0] * 30 + [0.0] * 10, [1.0] * 20 + [0.0] * 20, task="a")
    small = row([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], 0.0, task="b")
    found = mean_of_tasks([large, small])
    assert found.tasks == ("a", "b")
    assert (found.uncut, found.cut) == (pytest.approx(0.625), pytest.approx(0.375))
    assert found.difference.value == pytest.approx(-0.25) and found.difference.n == 44
    assert found.retention.value == pytest.approx(0.6)
    assert found.retention_above_chance.value == pytest.approx((0.375 - 0.125) / (0.625 - 0.125))
    assert found == mean_of_tasks([large, small])


def test_a_task_at_chance_adds_as_little_as_it_says():
    rng = np.random.default_rng(0)
    good, guessed = draw(rng, 0.85, 0.55, 200), draw(rng, 0.26, 0.26, 200)
    alone, both = (
        mean_of_tasks([good, good]).retention_above_chance,
        mean_of_tasks([good, guessed]).retention_above_chance,
    )
    assert abs(both.value - alone.value) < 0.1 and both.low < alone.value < both.high


def test_what_is_not_known_is_not_given():
    right, lost = [1.0] * 6 + [0.0] * 2, [1.0] * 4 + [0.0] * 4
    without = mean_of_tasks([row(right, lost), row(right, lost, None)])
    assert without.retention_above_chance is None and without.retention is not None
    few = mean_of_tasks([row(right, lost), row(right, lost, clusters=["x", "y"] * 4)])
    assert few.difference.value == pytest.approx(-0.25) and few.difference.low is None
    assert few.retention is not None and few.retention.low is None
    nothing = mean_of_tasks([row([0.0] * 4, lost[:4]), row([0.0] * 4, lost[:4])])
    assert nothing.retention is None and nothing.retention_above_chance is None


def test_intervals_cover_the_truth_of_task_means():
    rng = np.random.default_rng(1)
    levels = ((0.8, 0.6), (0.5, 0.4), (0.3, 0.28))
    uncut, cut = (np.mean(ends) for ends in zip(*levels, strict=True))
    truth = {"difference": cut - uncut, "retention_above_chance": (cut - 0.25) / (uncut - 0.25)}
    hits = dict.fromkeys(truth, 0)
    for trial in range(200):
        found = mean_of_tasks([draw(rng, *level, 60, seed=trial) for level in levels], num_resamples=1000)
        for name, value in truth.items():
            estimate = getattr(found, name)
            hits[name] += estimate.low <= value <= estimate.high
    assert all(count >= 180 for count in hits.values()), hits
