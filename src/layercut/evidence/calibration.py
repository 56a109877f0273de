"""Calibration of ranked answers: does a model that is 80 % sure get 80 % right?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import percentile_interval

Array = npt.NDArray[np.float64]
BINS = 10
_DRAWS = 2000


class ComparedCalibration(NamedTuple):
    """1 - ECE of two models on the same items; 1 is calibrated."""

    uncut: Estimate
    cut: Estimate
    difference: Estimate
    p: float
    """Two-sided, by exchanging the two models' answers item by item."""


def expected_calibration_error(confidences: Array, rights: Array) -> float:
    """Mean distance of confidence and share of right answers, over ten bins of equal width, weighted by their items.

    Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al.,
    arXiv:1706.04599.

    Args:
        confidences: (n,) probability of the chosen answer, from 0 to 1.
        rights: (n,) 1 where it is right, else 0.
    """
    place = np.minimum((confidences * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=confidences - rights, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def compare_calibration(
    uncut: Sequence[Mapping[str, Any]], cut: Sequence[Mapping[str, Any]], *, seed: int
) -> ComparedCalibration:
    """Compare two models' ranked answers to the same items, in the same order.

    Args:
        uncut: records with ``log_likelihoods`` of the options and the headline metric; probabilities are their softmax.
    """
    sure = np.array([[_sureness(one) for one in records] for records in (uncut, cut)])
    right = np.array([[_headline(one) for one in records] for records in (uncut, cut)])
    rng, n = np.random.default_rng(seed), sure.shape[1]

    def both(sure: Array, right: Array) -> Array:
        return np.array([1 - expected_calibration_error(sure[model], right[model]) for model in (0, 1)])

    own = both(sure, right)
    drawn = np.array([both(sure[:, items], right[:, items]) for items in rng.integers(n, size=(_DRAWS, n))])
    swaps = rng.integers(2, size=(_DRAWS, n)).astype(bool)
    swapped = [np.diff(both(np.where(one, sure[::-1], sure), np.where(one, right[::-1], right)))[0] for one in swaps]
    gap = float(own[1] - own[0])
    as_far = np.sum(np.abs(swapped) >= abs(gap) - 1e-12)
    method = "bootstrap"
    return ComparedCalibration(
        percentile_interval(float(own[0]), drawn[:, 0], n, method),
        percentile_interval(float(own[1]), drawn[:, 1], n, method),
        percentile_interval(gap, drawn[:, 1] - drawn[:, 0], n, method),
        float((as_far + 1) / (_DRAWS + 1)),
    )


def _sureness(record: Mapping[str, Any]) -> float:
    scores = np.array(record["log_likelihoods"])
    shares = np.exp(scores - scores.max())
    return float(shares.max() / shares.sum())


def _headline(record: Mapping[str, Any]) -> float:
    return float(next(iter(record["metrics"].values())))
