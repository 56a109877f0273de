"""Paired comparison: known values and refusals. Coverage is in test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from layercut.errors import InputError
from layercut.evidence.intervals import proportion_interval
from layercut.evidence.paired import compare_paired, mcnemar_test
from tests.support.near_chance import pairs


def test_a_clear_loss():
    result = compare_paired(*pairs(both=40, lost=30, gained=5, neither=25), chance=0.25)
    assert result.uncut == proportion_interval(70, 100)
    assert result.cut == proportion_interval(45, 100)
    assert result.difference.value == pytest.approx(-0.25)
    assert -0.38 < result.difference.low < -0.33
    assert -0.17 < result.difference.high < -0.12
    assert result.retention.value == pytest.approx(45 / 70)
    assert result.retention_above_chance.value == pytest.approx(20 / 45)
    assert result.retention_above_chance.low < 20 / 45 < result.retention_above_chance.high
    assert (result.lost, result.gained) == (30, 5)
    assert result.p_value == pytest.approx(2 * binom.cdf(5, 35, 0.5))
    assert result.refused == ""


def test_pairing_is_sharper_than_two_intervals():
    uncut, cut = pairs(both=50, lost=6, gained=0, neither=44)
    result = compare_paired(uncut, cut, chance=0.0)
    assert result.difference.high < 0  # clear within items ...
    assert result.cut.high > result.uncut.low  # ... although the separate intervals overlap
    rng = np.random.default_rng(0)
    unpaired = compare_paired(uncut, rng.permutation(cut), chance=0.0)
    assert unpaired.difference.high > 0
    assert unpaired.p_value > 0.05 > result.p_value


def test_the_order_of_the_pairs_has_no_effect():
    rng = np.random.default_rng(3)
    for uncut, cut in [(rng.random(80), rng.random(80)), (rng.integers(0, 2, 80), rng.integers(0, 2, 80))]:
        order = rng.permutation(80)
        one = compare_paired(uncut, cut, chance=0.0, seed=4)
        assert one == compare_paired(uncut[order], cut[order], chance=0.0, seed=4)
        assert one.difference != compare_paired(uncut, cut, chance=0.0, seed=5).difference


def test_agreeing_on_every_item_is_not_certainty():
    result = compare_paired(*pairs(both=30, lost=0, gained=0, neither=20), chance=0.25)
    assert result.difference.value == 0
    assert -0.12 < result.difference.low < -0.02
    assert 0.02 < result.difference.high < 0.12
    assert result.retention.low < 1 < result.retention.high
    assert result.p_value == 1


def test_losing_everything_keeps_the_value_inside_its_interval():
    result = compare_paired(*pairs(both=0, lost=20, gained=0, neither=0), chance=0.25)
    assert result.difference.low == result.difference.value == -1
    assert -0.9 < result.difference.high < -0.7
    assert result.retention.value == result.retention.low == 0
    assert result.retention_above_chance.value == pytest.approx(-1 / 3)  # worse than guessing
    assert result.p_value == pytest.approx(2 / 2**20)


@pytest.mark.parametrize(("right", "refused"), [(31, True), (60, False)])
def test_retention_above_chance_is_refused_at_chance(right, refused):
    # 31 of 100 on four options is [0.23, 0.41]: not shown to be above 0.25.
    result = compare_paired([1] * right + [0] * (100 - right), [0] * 100, chance=0.25)
    assert (result.retention_above_chance is None) is refused
    assert ("not above chance (0.25) on 100 items" in result.refused) is refused
    assert result.retention.value == 0


def test_an_uncut_score_of_zero_refuses_both():
    result = compare_paired([0] * 20, [0] * 19 + [1], chance=0.0)
    assert result.retention is None
    assert result.retention_above_chance is None
    assert "nothing to retain" in result.refused
    assert result.difference.value == 0.05
    assert result.gained == 1


def test_one_item():
    result = compare_paired([1], [0], chance=0.0)
    assert result.difference.value == -1
    assert result.difference.high > 0  # one item shows nothing
    assert result.p_value == 1
    rouge = compare_paired([0.5], [0.25], chance=0.0)
    assert (rouge.difference.value, rouge.difference.low, rouge.difference.high) == (-0.25, None, None)
    assert rouge.retention.value == 0.5
    assert rouge.retention_above_chance is None
    assert "on 1 item" in rouge.refused


def test_values_that_are_not_binary():
    rng = np.random.default_rng(0)
    uncut = rng.uniform(0.2, 0.6, 60)
    cut = uncut - 0.1 + rng.normal(0, 0.05, 60)
    result = compare_paired(uncut, cut, chance=0.05)
    assert (result.lost, result.gained) == (None, None)
    half = 1.96 * (cut - uncut).std(ddof=1) / np.sqrt(60)
    assert result.difference.low == pytest.approx((cut - uncut).mean() - half, abs=0.002)
    assert result.difference.high == pytest.approx((cut - uncut).mean() + half, abs=0.002)
    assert result.p_value == pytest.approx(2 / 10_000)  # the smallest that 9,999 resamples can give
    assert result.retention_above_chance.value < result.retention.value < 1


def test_the_sign_flip_test_is_exact_for_few_items():
    result = compare_paired([0.1, 0.2, 0.3, 0.4], [0.05, 0.1, 0.2, 0.1], chance=0.0)
    assert result.p_value == 2 / 2**4
    assert compare_paired([0.1, 0.2], [0.1, 0.2], chance=0.0).p_value == 1


def test_a_loss_that_is_equal_on_every_item_has_no_known_spread():
    result = compare_paired([0.5, 0.75, 1.0], [0.25, 0.5, 0.75], chance=0.0)
    assert result.difference == (-0.25, None, None, 3, "none")
    assert result.retention.low is not None


def test_a_ratio_that_may_divide_by_zero_is_refused_or_wide():
    values = [0.0] * 40 + [-1.0, 1.2]
    result = compare_paired(values, values, chance=None)
    assert result.uncut.value > 0
    assert compare_paired([2.0, 3.0], [2.5, 3.0], chance=None).refused == "this metric has no chance level"
    assert result.retention is None
    assert "too near 0" in result.refused


def test_log_likelihoods_have_a_difference_and_no_share():
    uncut = [-1.0, -0.5, -2.0, -1.5] * 10
    result = compare_paired(uncut, [value - 1 for value in uncut], chance=None)
    assert result.retention is None and result.retention_above_chance is None
    assert result.difference.value == pytest.approx(-1.0) and result.p_value < 0.001
    assert "a value below 0, such as a log-likelihood, has no retention" in result.refused


def test_published_example() -> None:
    # Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data", BMC Med. Res. Methodol. 13:91
    # (2013): airway hyper-responsiveness before and after a transplant, 1 and 7 discordant of 21; exact p 0.0703.
    assert mcnemar_test(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_concordant_items_do_not_count() -> None:
    few, many = (compare_paired(*pairs(*counts), chance=None) for counts in ((0, 9, 2, 0), (500, 9, 2, 300)))
    assert (few.lost, few.gained, few.p_value) == (many.lost, many.gained, many.p_value) == (9, 2, mcnemar_test(9, 2))
    assert mcnemar_test(0, 0) == mcnemar_test(4, 4) == 1.0


def test_five_discordant_items_cannot_be_significant_and_six_can() -> None:
    assert mcnemar_test(5, 0) > 0.05 > mcnemar_test(6, 0)


@pytest.mark.parametrize(
    ("uncut", "cut", "message"),
    [
        ([1, 0], [1], "2 uncut and 1 cut"),
        ([], [], "at least one item"),
        ([1.0, 0.5], [1.0, float("nan")], "item 1 is nan"),
    ],
)
def test_bad_input(uncut: list[float], cut: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_paired(uncut, cut, chance=0.0)
