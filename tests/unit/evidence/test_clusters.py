"""Items that share contexts: Miller's formula, when it applies, and what it does to a comparison."""

from __future__ import annotations

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.intervals import cluster_codes, clustered_standard_error, clusters_of, mean_interval
from layercut.evidence.paired import compare_paired


def test_standard_error_is_millers_double_sum() -> None:
    rng = np.random.default_rng(0)
    values, names = rng.random(30), [f"t{i % 7}" for i in range(30)]
    codes = cluster_codes(names, 30)
    mean, total = values.mean(), 0.0
    for i in range(30):
        for j in range(30):
            if names[i] == names[j]:
                total += (values[i] - mean) * (values[j] - mean)
    assert clustered_standard_error(values, codes) == pytest.approx(np.sqrt(total * 7 / 6) / 30)


def test_copies_of_items_add_nothing() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(40)
    copied, names = np.repeat(values, 5), [f"item {i // 5}" for i in range(200)]
    codes = cluster_codes(names, 200)
    assert clustered_standard_error(copied, codes) == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    right = (values > 0.4).astype(float)
    apart, together = mean_interval(right), mean_interval(np.repeat(right, 5), clusters=names)
    assert together.method == "clustered wilson"
    assert together.n == 200
    assert together.low <= apart.low  # by a little: Student's t and K - 1
    assert together.low == pytest.approx(apart.low, abs=0.02)


def test_seeds_are_clusters_of_an_item() -> None:
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


def test_where_there_is_nothing_to_correct_for() -> None:
    values, other = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]
    plain = compare_paired(values, other, chance=0.0)
    assert plain.test == "mcnemar"
    assert plain.num_clusters is None
    for names in (["a", "b", "c", "d"], ["all"] * 4):
        assert compare_paired(values, other, chance=0.0, clusters=names) == plain
        assert mean_interval(values, clusters=names) == mean_interval(values)


def test_a_few_contexts_carry_no_interval_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.random(50) < 0.9).astype(float), (rng.random(50) < 0.5).astype(float)
    found = compare_paired(before, after, chance=0.0, clusters=[f"subject {i % 5}" for i in range(50)])
    assert (found.difference.low, found.difference.method, found.retention.low) == (None, "none", None)
    assert "fewer than 6 contexts" in found.refused
    six = compare_paired(before, after, chance=0.0, clusters=[f"subject {i % 6}" for i in range(50)])
    assert six.difference.method == "clustered bootstrap"
    assert six.refused == ""


def test_names_and_order_have_no_effect() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.random(60), rng.random(60)
    names = np.array([f"c{i % 11:02d}" for i in range(60)])
    order = rng.permutation(60)
    one = compare_paired(before, after, chance=0.1, clusters=list(names))
    other = compare_paired(before[order], after[order], chance=0.1, clusters=[f"x{name}" for name in names[order]])
    assert one == other


def test_all_right_says_little_about_a_few_contexts() -> None:
    names = [f"c{i % 10}" for i in range(200)]
    few = mean_interval([1.0] * 200, clusters=names)
    assert few.low == pytest.approx(mean_interval([1.0] * 10).low)
    assert few.high == 1.0


def test_clusters_are_read_from_records_only_where_all_have_one() -> None:
    assert clusters_of([{"cluster": 3}, {"cluster": "b"}]) == ["3", "b"]
    assert clusters_of([{"cluster": "a"}, {}]) is None
    assert clusters_of([{}, {}]) is None
    assert clusters_of([]) is None
    with pytest.raises(InputError, match="1 clusters came for 2 items"):
        mean_interval([0.0, 1.0], clusters=["a"])
