"""Intervals: known values and honest edge cases. Coverage is in test_coverage.py."""

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.intervals import geometric_mean_ratio, mean_interval, proportion_interval


@pytest.mark.parametrize(
    ("successes", "n", "ends"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_matches_newcombe_1998_table_1(successes, n, ends):
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), method 3.
    value, *found, count, method = proportion_interval(successes, n)
    assert (value, count, method) == (successes / n, n, "wilson")
    assert found == pytest.approx(ends, abs=5e-5)


def test_zero_and_one_values_get_wilson_whatever_their_type():
    for values in ([1, 0, 1, 1], [1.0, 0.0, 1.0, 1.0], [True, False, True, True]):
        assert mean_interval(values) == proportion_interval(3, 4)
    assert mean_interval([1.0])[:3] == (1, pytest.approx(0.2065, abs=1e-4), 1)  # one right answer is not certainty


@pytest.mark.parametrize("values", [[0.4], [0.4] * 50, [7.25, 7.25]])
def test_values_without_spread_give_no_interval(values):
    estimate = mean_interval(values)
    assert estimate == (pytest.approx(values[0]), None, None, len(values), "none")


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    values = np.random.default_rng(5).normal(3.0, 2.0, 400)
    estimate = mean_interval(values, seed=1)
    assert estimate == mean_interval(values, seed=1)
    assert estimate.method == "bca"
    half = 1.96 * values.std(ddof=1) / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.03)
    assert mean_interval(values, seed=2).low != estimate.low


def test_two_different_values_still_give_a_finite_interval():
    estimate = mean_interval([0.2, 0.6])
    assert 0.2 <= estimate.low <= estimate.value <= estimate.high <= 0.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "no items"),
        (lambda: mean_interval([0.5, float("nan")]), "item 1 is nan"),
        (lambda: proportion_interval(0, 0), "no items"),
        (lambda: proportion_interval(5, 4), "5 successes of 4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_mean_ratio_of_paired_rounds() -> None:
    assert geometric_mean_ratio([2.0, 4.0], [1.0, 2.0])[:3] == (0.5, None, None)
    logs = np.log(ratios := [1.1, 1.2, 1.0, 1.1])
    reach = 3.182446 * logs.std(ddof=1) / 2  # Student's t of 3 degrees of freedom
    assert geometric_mean_ratio([1.0] * 4, ratios)[:3] == pytest.approx(
        np.exp([logs.mean() + side * reach for side in (0, -1, 1)])
    )
