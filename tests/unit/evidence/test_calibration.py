"""Calibration: an error of known size, intervals that hold it, and a test that finds a difference and no other."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest

from layercut.evidence.calibration import compare_calibration, expected_calibration_error


def records(sure: float, share: float, n: int, seed: int) -> list[dict[str, Any]]:
    """Two options, the first one chosen with a probability of ``sure``, and right in a ``share`` of the items."""
    rights = np.random.default_rng(seed).random(n) < share
    scores = [log(sure), log(1 - sure)]
    return [{"log_likelihoods": scores, "metrics": {"accuracy": float(right)}} for right in rights]


def test_the_error_is_the_distance_of_confidence_and_share_of_right_answers() -> None:
    sure = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    by_hand = 4 / 6 * abs(0.95 - 0.75) + 2 / 6 * abs(0.55 - 0.5)
    assert expected_calibration_error(sure, right) == pytest.approx(by_hand)
    assert expected_calibration_error(np.ones(3), np.ones(3)) == 0


def test_a_model_that_became_too_sure_is_found() -> None:
    found = compare_calibration(records(0.7, 0.7, 200, seed=1), records(0.95, 0.7, 200, seed=1), seed=0)
    assert found.uncut.value > 0.9 and found.p < 0.01
    assert found.difference.value == pytest.approx(-0.25, abs=0.05)
    assert found.difference.low is not None and found.difference.high is not None
    assert found.difference.low < found.difference.value < found.difference.high < 0


def test_equal_models_do_not_differ() -> None:
    same = records(0.8, 0.7, 100, seed=2)
    found = compare_calibration(same, same, seed=0)
    assert found.difference.value == 0 and found.p == 1.0


def test_chance_finds_a_difference_in_about_one_of_twenty() -> None:
    ps = [
        compare_calibration(records(0.8, 0.7, 60, 2 * i), records(0.8, 0.7, 60, 2 * i + 1), seed=i).p for i in range(40)
    ]
    assert sum(p < 0.05 for p in ps) <= 6
