"""How many items: a published number, simulation, and shares that cannot be."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from layercut.errors import InputError
from layercut.evidence.sample_size import (
    MANY,
    Differences,
    _below_zero,
    expect_outcomes,
    items_needed,
    items_to_decide,
    mcnemar_power,
    outcomes_of,
    power_to_decide,
)
from tests.support.near_chance import pairs, share_that_passes


def test_connors_formula_by_hand_and_the_level_without_a_difference():
    # psi = 0.2 and delta = 0.1: (1.95996 sqrt(0.2) + 0.84162 sqrt(0.19))^2 / 0.01 = 154.5
    outcomes = outcomes_of(0.5, 0.4, 0.15 / math.sqrt(0.06))
    assert outcomes == pytest.approx((0.35, 0.15, 0.05, 0.45))
    assert 155 <= items_needed(outcomes) <= 175
    same = expect_outcomes(baseline=0.5, retention=1.0)
    assert 0.02 < mcnemar_power(200, same) <= 0.05


@pytest.mark.parametrize(("baseline", "retention", "chance"), [(0.6, 0.8, 0.0), (0.9, 0.9, 0.25), (0.3, 0.4, 0.02)])
def test_the_power_is_there_in_simulation(baseline, retention, chance):
    outcomes = expect_outcomes(baseline=baseline, retention=retention, chance=chance)
    needed = items_needed(outcomes)
    rng = np.random.default_rng(int(100 * baseline))
    drawn = rng.multinomial(needed, outcomes, size=4000)
    differing, times = np.unique(drawn[:, 1:3], axis=0, return_counts=True)
    found = [bool(both.sum()) and binomtest(int(both[0]), int(both.sum())).pvalue < 0.05 for both in differing]
    power = times @ np.array(found) / 4000
    assert power == pytest.approx(mcnemar_power(needed, outcomes), abs=0.02)
    assert power >= 0.78
    assert mcnemar_power(needed // 2, outcomes) < 0.8


def test_what_makes_it_harder_and_a_correlation_that_cannot_be():
    usual = expect_outcomes(baseline=0.6, retention=0.9)
    assert items_needed(usual) == pytest.approx(566, abs=3)
    assert items_needed(usual, comparisons=12) > items_needed(usual)
    assert items_needed(outcomes_of(0.6, 0.54, 0.2)) > items_needed(usual) > items_needed(outcomes_of(0.6, 0.54, 0.8))
    deep = expect_outcomes(baseline=0.6, retention=0.1)
    assert deep.gained == pytest.approx(0.0) and items_needed(deep) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expect_outcomes(baseline=0.2, retention=0.9, chance=0.25), "baseline must lie above chance"),
        (lambda: expect_outcomes(baseline=60, retention=0.9), "baseline must lie above chance and below 1"),
        (lambda: expect_outcomes(baseline=0.6, retention=2.0), "gives 1.2; it must lie between 0 and 1"),
        (lambda: items_needed(expect_outcomes(baseline=0.6, retention=1.0)), "more than 5,000,000 items"),
        (lambda: items_needed(expect_outcomes(baseline=0.6, retention=0.9999)), "retention that is farther from 1"),
    ],
)
def test_what_no_number_of_items_can_show_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def measured(*outcomes: int) -> Differences:
    return Differences.measured(*pairs(*outcomes), keep=0.9, chance=0.0, clusters=None)


@pytest.mark.parametrize("outcomes", [(12, 0, 0, 8), (55, 2, 2, 41), (30, 1, 0, 9)])
def test_as_many_items_as_promised_decide(outcomes):
    found = measured(*outcomes)
    needed = items_to_decide(found, 0.05, start=sum(outcomes) + 1, most=MANY * sum(outcomes))
    by_difference = {0.1: (1.0, 1.0), -0.9: (1.0, 0.0), 1.0: (0.0, 1.0), 0.0: (0.0, 0.0)}
    scores = [by_difference[round(value, 6)] for value in found.values]
    assert 0.68 <= share_that_passes(scores, found.shares, needed, 0.9, 0.0, seed=7, tries=100) <= 0.95


def test_items_to_decide_of_few_items_of_a_plan_on_the_edge_and_of_a_loss():
    assert items_to_decide(measured(90, 10, 0, 0), 0.05, start=101, most=MANY * 100) is None
    needed = items_to_decide(measured(12, 0, 0, 8), 0.05, start=21, most=2000)
    assert 40 <= needed <= 60
    lost = measured(60, 40, 0, 0).negated()
    assert power_to_decide(lost, 100, 0.05) > 0.95 and power_to_decide(measured(60, 40, 0, 0), 100, 0.05) < 0.01


def test_contexts_count_and_not_their_items():
    uncut, cut = [1.0] * 200, ([1.0] * 19 + [0.0]) * 10
    alone = Differences.measured(uncut, cut, keep=0.9, chance=0.0, clusters=None)
    shared = Differences.measured(uncut, cut, keep=0.9, chance=0.0, clusters=[str(i // 20) for i in range(200)])
    assert shared.items == 20 and power_to_decide(shared, 200, 0.05) < power_to_decide(alone, 200, 0.05)


def test_scores_between_0_and_1_need_fewer_items_than_right_and_wrong():
    rng = np.random.default_rng(0)
    uncut = rng.uniform(0.2, 0.6, 100)
    graded = Differences.measured(list(uncut), list(0.95 * uncut), keep=0.9, chance=0.0, clusters=None)
    binary = Differences.expected(outcomes_of(0.4, 0.38, 0.9), keep=0.9, chance=0.0)
    found = [items_to_decide(one, 0.05, start=10, most=10_000) for one in (graded, binary)]
    assert found[0] < found[1]


@pytest.mark.parametrize("outcomes", [(60, 0, 0, 40), (55, 5, 3, 37), (12, 0, 0, 8), (70, 9, 4, 17)])
@pytest.mark.parametrize(("keep", "chance"), [(0.9, 0.0), (0.8, 0.25)])
def test_the_tail_by_formula_is_that_of_resampling(outcomes, keep, chance):
    found = Differences.expected(outcomes_of(0.5, 0.5, 0.5), keep=keep, chance=chance)
    (tail,) = _below_zero(np.array([*found.values, found.worst]), np.array([[*outcomes, 1.0]]))
    rng = np.random.default_rng(1)
    draws = rng.standard_gamma(np.array(outcomes, float), size=(200_000, 4)) @ np.array(found.values)
    draws += rng.standard_exponential(200_000) * found.worst
    assert abs(tail - (draws < 0).mean()) < 0.01


@pytest.mark.parametrize("score", [0.4, 0.6, 0.8])
def test_the_items_that_were_named_have_the_power_in_other_draws(score):
    chance, kept, keep = 0.25, 0.9, 0.8
    expected = outcomes_of(score, chance + kept * (score - chance), 0.5)
    found = Differences.expected(expected, keep=keep, chance=chance)
    number = items_to_decide(found, 0.05, start=16, most=20_000)
    drawn = np.random.default_rng(1).multinomial(number, found.shares, size=20_000)
    below = _below_zero(np.array([*found.values, found.worst]), np.column_stack([drawn, np.ones(len(drawn))]))
    assert abs((below <= 0.05).mean() - 0.8) < 0.02
