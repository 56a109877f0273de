"""Intervals: known values, edge cases, shared contexts, Holm, pass@k. Coverage is in test_coverage.py."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import norm

from layercut.errors import InputError
from layercut.evidence.intervals import (
    adjust_by_holm,
    cluster_codes,
    clustered_standard_error,
    clusters_of,
    geometric_mean_ratio,
    mean_interval,
    pass_at_k,
    proportion_interval,
)
from layercut.evidence.paired import compare_paired


@pytest.mark.parametrize(
    ("successes", "n", "ends"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_matches_newcombe_1998_table_1(successes, n, ends):
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), method 3.
    value, *found, count, method = proportion_interval(successes, n)
    assert (value, count, method) == (successes / n, n, "wilson")
    assert found == pytest.approx(ends, abs=5e-5)


def test_zero_and_one_values_get_wilson_whatever_their_type_and_two_others_a_finite_interval():
    for values in ([1, 0, 1, 1], [1.0, 0.0, 1.0, 1.0], [True, False, True, True]):
        assert mean_interval(values) == proportion_interval(3, 4)
    assert mean_interval([1.0])[:3] == (1, pytest.approx(0.2065, abs=1e-4), 1)  # one right answer is not certainty
    estimate = mean_interval([0.2, 0.6])
    assert 0.2 <= estimate.low <= estimate.value <= estimate.high <= 0.6


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "no items"),
        (lambda: mean_interval([0.5, float("nan")]), "item 1 is nan"),
        (lambda: proportion_interval(0, 0), "no items"),
        (lambda: proportion_interval(5, 4), "5 successes of 4"),
        (lambda: mean_interval([0.0, 1.0], clusters=["a"]), "1 clusters came for 2 items"),
        (lambda: adjust_by_holm([0.5, -0.1]), "p-value 1 is"),
        (lambda: adjust_by_holm([0.5, 1.5]), "p-value 1 is"),
        (lambda: adjust_by_holm([0.5, float("nan")]), "p-value 1 is"),
        (lambda: pass_at_k(2, 3, 1), "with 3 right"),
        (lambda: pass_at_k(2, -1, 1), "with -1 right"),
        (lambda: pass_at_k(2, 1, 3), "pass@3 of 2"),
        (lambda: pass_at_k(2, 1, 0), "pass@0 of 2"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_mean_ratio_of_paired_rounds():
    assert geometric_mean_ratio([2.0, 4.0], [1.0, 2.0])[:3] == (0.5, None, None)
    logs = np.log(ratios := [1.1, 1.2, 1.0, 1.1])
    reach = 3.182446 * logs.std(ddof=1) / 2  # Student's t of 3 degrees of freedom
    assert geometric_mean_ratio([1.0] * 4, ratios)[:3] == pytest.approx(
        np.exp([logs.mean() + side * reach for side in (0, -1, 1)])
    )


def test_standard_error_is_millers_double_sum():
    rng = np.random.default_rng(0)
    values, names = rng.random(30), [f"t{i % 7}" for i in range(30)]
    codes = cluster_codes(names, 30)
    mean, pairs = values.mean(), ((i, j) for i in range(30) for j in range(30) if names[i] == names[j])
    total = sum((values[i] - mean) * (values[j] - mean) for i, j in pairs)
    assert clustered_standard_error(values, codes) == pytest.approx(np.sqrt(total * 7 / 6) / 30)


def test_copies_of_items_add_nothing():
    rng = np.random.default_rng(1)
    values = rng.random(40)
    names = [f"item {i // 5}" for i in range(200)]
    assert clustered_standard_error(np.repeat(values, 5), cluster_codes(names, 200)) == pytest.approx(
        values.std(ddof=1) / np.sqrt(40)
    )
    right = (values > 0.4).astype(float)
    apart, together = mean_interval(right), mean_interval(np.repeat(right, 5), clusters=names)
    assert (together.method, together.n) == ("clustered wilson", 200)
    assert together.low <= apart.low  # by a little: Student's t and K - 1
    assert together.low == pytest.approx(apart.low, abs=0.02)


def test_seeds_are_clusters_of_an_item():
    """Three answers to each of 60 items know as little about items as one, where the seed changes nothing."""
    rng = np.random.default_rng(2)
    before, after = (rng.random(60) < 0.7).astype(float), (rng.random(60) < 0.5).astype(float)
    one = compare_paired(before, after, chance=0.0)
    names = [f"item {i // 3}" for i in range(180)]
    three = compare_paired(np.repeat(before, 3), np.repeat(after, 3), chance=0.0, clusters=names)
    assert three.num_clusters == 60
    assert three.difference.value == pytest.approx(one.difference.value)
    for ends in ("low", "high"):
        assert getattr(three.difference, ends) == pytest.approx(getattr(one.difference, ends), abs=0.015)
    assert three.test == "clustered sign-flip"
    assert three.p_value == pytest.approx(one.p_value, abs=0.02)


def test_clusters_count_where_all_records_have_one_and_there_is_something_to_correct_for():
    values, other = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]
    plain = compare_paired(values, other, chance=0.0)
    assert (plain.test, plain.num_clusters) == ("mcnemar", None)
    for names in (["a", "b", "c", "d"], ["all"] * 4):
        assert compare_paired(values, other, chance=0.0, clusters=names) == plain
        assert mean_interval(values, clusters=names) == mean_interval(values)
    assert clusters_of([{"cluster": 3}, {"cluster": "b"}]) == ["3", "b"]
    assert [clusters_of(records) for records in ([{"cluster": "a"}, {}], [{}, {}], [])] == [None] * 3


def test_a_few_contexts_carry_no_interval_of_a_difference():
    rng = np.random.default_rng(0)
    before, after = (rng.random(50) < 0.9).astype(float), (rng.random(50) < 0.5).astype(float)
    found = compare_paired(before, after, chance=0.0, clusters=[f"subject {i % 5}" for i in range(50)])
    assert (found.difference.low, found.difference.method, found.retention.low) == (None, "none", None)
    assert "fewer than 6 contexts" in found.refused
    six = compare_paired(before, after, chance=0.0, clusters=[f"subject {i % 6}" for i in range(50)])
    assert (six.difference.method, six.refused) == ("clustered bootstrap", "")


def test_names_and_order_have_no_effect():
    rng = np.random.default_rng(5)
    before, after = rng.random(60), rng.random(60)
    names = np.array([f"c{i % 11:02d}" for i in range(60)])
    order = rng.permutation(60)
    one = compare_paired(before, after, chance=0.1, clusters=list(names))
    other = compare_paired(before[order], after[order], chance=0.1, clusters=[f"x{name}" for name in names[order]])
    assert one == other


def test_all_right_says_little_about_a_few_contexts():
    names = [f"c{i % 10}" for i in range(200)]
    few = mean_interval([1.0] * 200, clusters=names)
    assert few.low == pytest.approx(mean_interval([1.0] * 10).low)
    assert few.high == 1.0


def test_holms_correction_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; none below the one before it.
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert adjust_by_holm([0.9, 0.5, 1.0]) == [1.0, 1.0, 1.0]
    assert adjust_by_holm([0.03]) == [0.03]
    assert adjust_by_holm([]) == []


def test_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(8) ** 4
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {i for i, adjusted in enumerate(adjust_by_holm(list(p))) if adjusted <= 0.05} == rejected


def test_holds_the_error_over_the_whole_family():
    """Ten true hypotheses, correlated as tasks of one model are: any false finding in at most 5 of 100 families."""
    rng = np.random.default_rng(1)
    z = 0.5 * rng.normal(size=(4000, 1)) + np.sqrt(0.75) * rng.normal(size=(4000, 10))
    families = 2 * norm.sf(np.abs(z))
    wrong = np.mean([min(adjust_by_holm(list(family))) < 0.05 for family in families])
    assert 0.02 < wrong < 0.055
    assert np.mean(families.min(axis=1) < 0.05) > 0.3  # without it


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_sets_with_a_right_one(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            sets = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, sets)) / len(sets))


def test_large_counts_keep_their_digits():
    exact = 1 - comb(9_000, 100) / comb(10_000, 100)
    assert pass_at_k(10_000, 1_000, 100) == pytest.approx(exact, rel=1e-12)
    assert pass_at_k(100, 0, 100) == 0.0 and pass_at_k(100, 1, 100) == 1.0
