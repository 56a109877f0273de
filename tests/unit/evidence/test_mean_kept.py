from __future__ import annotations

import math

import numpy as np
import pytest

from layercut.evidence.mean_kept import TaskValues, mean_kept


def test_the_value_is_the_mean_of_the_ratios_and_n_all_items() -> None:
    first = TaskValues("a", [1, 1, 1, 0], [1, 0, 0, 0], 0.0)
    second = TaskValues("b", [1.0, 0.6, 0.2, 0.6, 0.6], [0.6, 0.6, 0.2, 0.2, 0.4], 0.2)
    found = mean_kept([first, second])
    assert found.refused == ""
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx((1 / 3 + 0.2 / 0.4) / 2)
    assert found.estimate.n == 9
    assert found.estimate.low is not None
    assert found.estimate.high is not None
    assert found.estimate.low < found.estimate.value < found.estimate.high
    assert mean_kept([first, second]) == found


def test_a_log_likelihood_keeps_a_ratio_of_probabilities() -> None:
    found = mean_kept([TaskValues("gold", [-1.0, -2.0, -1.5], [-1.5, -2.5, -2.3], 0.0, is_log=True)])
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(math.exp(-0.6))
    assert found.estimate.high is not None
    assert found.estimate.high <= math.exp(-0.5)


def test_no_ratio_to_a_model_that_guesses_and_no_interval_of_few_contexts() -> None:
    assert "not above 0.5" in mean_kept([TaskValues("a", [0, 1, 0, 1], [0, 0, 0, 1], 0.5)]).refused
    near = mean_kept([TaskValues("a", [1, 1, 0, 1], [0, 0, 0, 1], 0.7)])
    assert near.estimate is not None
    assert near.estimate.low is near.estimate.high is None
    few = mean_kept([TaskValues("a", [1, 1, 1, 0], [1, 1, 0, 0], 0.0, clusters=["x", "x", "y", "y"])])
    assert few.estimate is not None
    assert few.estimate.value == pytest.approx(2 / 3)
    assert few.estimate.low is None
    assert "fewer than" in few.refused


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        parts = []
        for uncut, kept in ((0.8, 0.75), (0.6, 0.5)):
            before = rng.random(100) < uncut
            after = before & (rng.random(100) < kept)
            parts.append(TaskValues("t", list(before.astype(float)), list(after.astype(float)), 0.0))
        found = mean_kept(parts, seed=trial, num_resamples=1000).estimate
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.625 <= found.high
    assert 0.92 <= hits / 300 <= 0.98
