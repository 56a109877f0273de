"""Paired comparison: known values, refusals, and rows as they stand on disk. Coverage is in test_coverage.py."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.diagnosis import MeasureRow
from layercut.evidence.intervals import proportion_interval
from layercut.evidence.paired import PairedRow, TaskRow, compare_paired, mcnemar_test
from layercut.evidence.sweep import SweepRow
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


def test_few_items_have_an_exact_test_and_equal_losses_no_known_spread():
    result = compare_paired([0.1, 0.2, 0.3, 0.4], [0.05, 0.1, 0.2, 0.1], chance=0.0)
    assert result.p_value == 2 / 2**4
    assert compare_paired([0.1, 0.2], [0.1, 0.2], chance=0.0).p_value == 1
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


def test_mcnemars_test_of_a_published_example_concordant_items_and_few_discordant_ones():
    # Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data", BMC Med. Res. Methodol. 13:91
    # (2013): airway hyper-responsiveness before and after a transplant, 1 and 7 discordant of 21; exact p 0.0703.
    assert mcnemar_test(1, 7) == pytest.approx(0.0703, abs=5e-5)
    few, many = (compare_paired(*pairs(*counts), chance=None) for counts in ((0, 9, 2, 0), (500, 9, 2, 300)))
    assert (few.lost, few.gained, few.p_value) == (many.lost, many.gained, many.p_value) == (9, 2, mcnemar_test(9, 2))
    assert mcnemar_test(0, 0) == mcnemar_test(4, 4) == 1.0
    assert mcnemar_test(5, 0) > 0.05 > mcnemar_test(6, 0)


@pytest.mark.parametrize(
    ("uncut", "cut", "message"),
    [
        ([1, 0], [1], "2 uncut and 1 cut"),
        ([], [], "at least one item"),
        ([1.0, 0.5], [1.0, float("nan")], "item 1 is nan"),
    ],
)
def test_bad_input(uncut, cut, message):
    with pytest.raises(InputError, match=message):
        compare_paired(uncut, cut, chance=0.0)


SHARED = {"task": "copy", "version": 1, "readout": "rank", "metric": "accuracy", "chance": 0.25, "limit": 8, "seed": 3}
VALUES = compare_paired([1, 1, 0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 0, 1, 1, 1], chance=0.25, seed=3)
ROW = SweepRow(layer=4, **SHARED, values=VALUES, outcomes={"right": 5, "wrong": 3})  # type: ignore[arg-type]


def test_all_rows_are_paired_rows():
    assert issubclass(TaskRow, PairedRow) and issubclass(MeasureRow, PairedRow)
    assert issubclass(ComparisonRow, TaskRow) and issubclass(SweepRow, TaskRow)
    assert ROW.kept_share is VALUES.retention_above_chance
    assert ROW.n == 8


def test_a_row_of_a_sweep_on_disk():
    text = json.dumps(ROW.to_dict())
    keys = "layer task version readout metric value n chance limit seed uncut cut difference retention "
    keys += "retention_above_chance lost gained p_value refused num_clusters test outcomes"
    assert list(json.loads(text)) == keys.split()
    assert text == GOLDEN
    assert SweepRow.from_dict(json.loads(text)) == ROW


def test_a_row_of_a_diagnosis_on_disk():
    # keys and forms as they stand in folders of earlier versions
    held = {
        "diagnostic": "arithmetic", "measure": "written", "group": "", "arm": "reverse-3", "better": "higher",
        "unit": "share", "chance": 0.25, "n": 8, "uncut": [0.75, 0.4, 0.9], "cut": [0.6, 0.3, 0.8],
        "difference": [-0.15, None, None], "kept": [0.7, 0.1, None], "p_value": 1.0, "test": "mcnemar", "seed": 3,
        "headline": True,
    }  # fmt: skip
    row = MeasureRow.from_dict(held)
    assert json.dumps(row.to_dict()) == json.dumps(held)
    assert row.kept_share is row.values.retention_above_chance and row.is_worse and row.label == "written"


GOLDEN = (
    '{"layer": 4, "task": "copy", "version": 1, "readout": "rank", "metric": "accuracy", "value": 0.625, "n": 8, '
    '"chance": 0.25, "limit": 8, "seed": 3, "uncut": {"value": 0.75, "low": 0.40927543031016883, "high": '
    '0.9285207872478909, "n": 8, "method": "wilson"}, "cut": {"value": 0.625, "low": 0.3057423946026273, "high": '
    '0.8631557141764027, "n": 8, "method": "wilson"}, "difference": {"value": -0.125, "low": '
    '-0.48031855682599656, "high": 0.2876560341490316, "n": 8, "method": "bootstrap"}, "retention": {"value": '
    '0.8333333333333334, "low": 0.41112561860912206, "high": 1.6262576370645068, "n": 8, "method": "bootstrap"}, '
    '"retention_above_chance": {"value": 0.75, "low": 0.10863580136837638, "high": 2.524370383512099, "n": 8, '
    '"method": "bootstrap"}, "lost": 2, "gained": 1, "p_value": 1.0, "refused": "", "num_clusters": null, "test": '
    '"mcnemar", "outcomes": {"right": 5, "wrong": 3}}'
)
