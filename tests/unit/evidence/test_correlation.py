from __future__ import annotations

import math

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.sweep import rank_correlation


def test_equals_the_textbook_formula_without_ties() -> None:
    first, second = [0.3, 0.1, 0.9, 0.7, 0.5], [3.0, 1.0, 4.0, 5.0, 2.0]
    # ranks 2 1 5 4 3 and 3 1 4 5 2: d^2 = 1 0 1 1 1, rho = 1 - 6 * 4 / (5 * 24)
    found = rank_correlation(first, second).estimate
    assert (found.value, found.n) == (pytest.approx(0.8), 5)
    reach = 1.959963985 * math.sqrt((1 + 0.8**2 / 2) / 2)
    assert found[1:3] == pytest.approx([math.tanh(math.atanh(0.8) + side * reach) for side in (-1, 1)])


def test_ties_get_their_mean_rank_whatever_the_last_bit_says() -> None:
    ties, last_bit = [0.1 + 0.2, 0.3, 0.5, 0.6], [0.3, 0.1 + 0.2, 0.5, 0.6]
    other = [1.0, 2.0, 3.0, 4.0]
    assert rank_correlation(ties, other) == rank_correlation(last_bit, other)
    found = rank_correlation(ties, other).estimate
    assert found.value == pytest.approx(math.sqrt(0.9))  # ranks 1.5 1.5 3 4 with 1 2 3 4: 4.5 / sqrt(4.5 * 5)


@pytest.mark.parametrize(("other", "rho"), [([1, 5, 6, 7], 1.0), ([4, 3, 2, 1], -1.0)])
def test_a_perfect_order_has_no_interval(other: list[float], rho: float) -> None:
    found = rank_correlation([1, 2, 3, 4], other).estimate
    assert found.value == pytest.approx(rho)
    assert (found.low, found.high, found.method) == (None, None, "none")


def test_says_why_there_is_no_number() -> None:
    for left, right, reason in (([1, 1, 1], [1, 2, 3], "are equal"), ([1, 2], [1, 2], "at least 3")):
        found = rank_correlation(left, right)
        assert found.estimate is None and reason in found.refused
    with pytest.raises(InputError, match="3 and 2 values came"):
        rank_correlation([1, 2, 3], [1, 2])


def test_interval_holds_its_level() -> None:

    rng = np.random.default_rng(0)
    true = 6 / math.pi * math.asin(0.7 / 2)  # Spearman's rho of a bivariate normal with correlation 0.7
    hits = 0
    for _ in range(400):
        x = rng.standard_normal(30)
        found = rank_correlation(list(x), list(0.7 * x + math.sqrt(1 - 0.49) * rng.standard_normal(30))).estimate
        hits += found.low <= true <= found.high
    assert 0.92 <= hits / 400 <= 0.98
