"""Holm's correction: by hand, in any order, and the error that it promises."""

from __future__ import annotations

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.intervals import adjust_by_holm


def test_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; none below the one before it.
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_ties_ones_and_nothing() -> None:
    assert adjust_by_holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert adjust_by_holm([0.9, 0.5, 1.0]) == [1.0, 1.0, 1.0]
    assert adjust_by_holm([0.03]) == [0.03]
    assert adjust_by_holm([]) == []


def test_rejects_what_the_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(8) ** 4
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {i for i, adjusted in enumerate(adjust_by_holm(list(p))) if adjusted <= 0.05} == rejected


def test_holds_the_error_over_the_whole_family() -> None:
    """Ten true hypotheses, correlated as tasks of one model are: any false finding in at most 5 of 100 families."""
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    z = 0.5 * rng.normal(size=(4000, 1)) + np.sqrt(0.75) * rng.normal(size=(4000, 10))
    families = 2 * norm.sf(np.abs(z))
    wrong = np.mean([min(adjust_by_holm(list(family))) < 0.05 for family in families])
    assert 0.02 < wrong < 0.055
    assert np.mean(families.min(axis=1) < 0.05) > 0.3  # without it


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_no_p_values(p: float) -> None:
    with pytest.raises(InputError, match="p-value 1 is"):
        adjust_by_holm([0.5, p])
