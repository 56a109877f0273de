from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from layercut.errors import InputError
from layercut.evidence.intervals import pass_at_k


@pytest.mark.parametrize("n", [1, 4, 7])
def test_it_is_the_share_of_sets_with_a_right_one(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            sets = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, sets)) / len(sets))


def test_large_counts_keep_their_digits() -> None:
    exact = 1 - comb(9_000, 100) / comb(10_000, 100)
    assert pass_at_k(10_000, 1_000, 100) == pytest.approx(exact, rel=1e-12)
    assert pass_at_k(100, 0, 100) == 0.0 and pass_at_k(100, 1, 100) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, -1, 1), (2, 1, 3), (2, 1, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(InputError):
        pass_at_k(n, c, k)
