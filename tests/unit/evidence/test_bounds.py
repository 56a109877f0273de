"""One-sided bounds of the retention: never too sharp, and sharp enough to be of use."""

import numpy as np
import pytest
from scipy.stats import beta

from layercut.errors import InputError
from layercut.evidence.bounds import Bounds, retention_bounds
from tests.support.near_chance import pairs


def bounds(*outcomes: int, chance: float = 0.0, error: float = 0.05, **options) -> Bounds:
    return retention_bounds(*pairs(*outcomes), chance=chance, low_error=error, high_error=error, **options)


@pytest.mark.parametrize(("both", "lost"), [(25, 0), (45, 5), (280, 20)])
def test_the_lower_bound_of_an_uncut_model_that_is_always_right_is_clopper_and_pearsons(both, lost):
    found = bounds(both, lost, 0, 0)
    assert found.low == pytest.approx(beta.ppf(0.05, both, lost + 1), abs=0.004)
    assert found.value == both / (both + lost)


@pytest.mark.parametrize("n", [30, 120])
@pytest.mark.parametrize(("uncut", "chance", "gained"), [(0.5, 0.0, 0.02), (0.7, 0.25, 0.05), (0.97, 0.0, 0.0)])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_bounds_pass_the_truth_no_more_often_than_they_say(n, uncut, chance, gained, error):
    truth = 0.9
    cut = chance + truth * (uncut - chance)
    lost = uncut - cut + gained
    drawn = np.random.default_rng(n).multinomial(n, [uncut - lost, lost, gained, 1 - uncut - gained], size=1000)
    outcomes, times = np.unique(drawn, axis=0, return_counts=True)
    too_high = too_low = 0
    for seed, (four, count) in enumerate(zip(outcomes, times, strict=True)):
        found = bounds(*four, chance=chance, error=error, seed=seed, num_resamples=1000)
        too_high += count * (found.low is not None and found.low > truth)
        too_low += count * (found.high is not None and found.high < truth)
    slack = 3 * (error / 1000) ** 0.5
    assert too_high / 1000 <= error + slack
    assert too_low / 1000 <= error + slack


def test_many_items_come_close_to_the_truth_and_an_uncut_model_near_chance_gives_no_bound():
    found = bounds(1800, 200, 0, 0)
    assert 0.88 < found.low < 0.9 < found.high < 0.92
    assert bounds(6, 6, 6, 22, chance=0.25, error=0.01)[1:3] == (None, None)


def test_graded_scores_are_bounded_too():
    rng = np.random.default_rng(0)
    uncut = rng.uniform(0.2, 0.6, 400)
    found = retention_bounds(uncut, 0.95 * uncut, chance=0.05, low_error=0.025, high_error=0.025)
    assert 0.9 < found.low < found.value < found.high < 1.0


def test_items_of_few_contexts_say_less():
    uncut = [1.0] * 200
    cut = ([1.0] * 19 + [0.0]) * 10
    alone = retention_bounds(uncut, cut, chance=0.0, low_error=0.05, high_error=0.05)
    contexts = [str(index // 20) for index in range(200)]
    shared = retention_bounds(uncut, cut, chance=0.0, low_error=0.05, high_error=0.05, clusters=contexts)
    assert shared.low < alone.low - 0.1


@pytest.mark.parametrize(
    ("uncut", "cut", "error", "message"),
    [
        ([1.0, 0.0], [1.0], 0.05, "2 uncut and 1 cut values"),
        ([1.0, -2.0], [1.0, 0.0], 0.05, "scores from 0 to 1"),
        ([1.0, 0.0], [1.0, 0.0], 1.5, "error rate of 1.5"),
    ],
)
def test_what_cannot_be_bounded_is_refused(uncut, cut, error, message):
    with pytest.raises(InputError, match=message):
        retention_bounds(uncut, cut, chance=0.0, low_error=error, high_error=0.05)
