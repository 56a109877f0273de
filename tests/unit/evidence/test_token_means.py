"""Means over tokens are those of the tokens themselves, with the answers as clusters."""

from __future__ import annotations

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.paired import compare_paired
from layercut.evidence.token_means import token_mean


def test_the_sums_of_answers_give_what_their_tokens_give() -> None:
    rng = np.random.default_rng(3)
    before = [rng.exponential(size=int(rng.integers(1, 40))) for _ in range(12)]
    after = [values + rng.normal(0.2 * place, 1, len(values)) for place, values in enumerate(before)]
    clusters = [f"{place:02}" for place, values in enumerate(before) for _ in values]
    by_token = compare_paired(
        np.concatenate(before).tolist(), np.concatenate(after).tolist(), chance=None, clusters=clusters, seed=5
    ).difference
    sums = [float((q - p).sum()) for p, q in zip(before, after, strict=True)]
    found = token_mean([*sums, 0.0], [*map(len, before), 0], seed=5)
    assert found.n == by_token.n == len(clusters) and found.method == by_token.method
    assert found[:3] == pytest.approx(by_token[:3])
    assert found.low is not None and found.low < found.value


def test_few_answers_have_no_interval() -> None:
    assert token_mean([1.0, 2.0], [2, 4]) == (0.5, None, None, 6, "none")
    with pytest.raises(InputError, match="over no tokens"):
        token_mean([0.0, 0.0], [0, 0])
