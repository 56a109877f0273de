"""How often items decide whether a plan keeps a share of the score, by simulation with the bound that decides.

    decides(Differences.expected(outcomes, keep=0.9, chance=0.0), num_items=100, error=0.05)

The rule is that of ``layercut.evidence.bounds``: P(S < 0) is at most the error, with S = sum_i g_i x_i + g_0 x_0,
standard exponential weights g, x_i = (cut_i - chance) - keep (uncut_i - chance), and x_0 the worst value there can be.
Data sets are drawn, and P(S < 0) of each is computed by the saddlepoint formula of Lugannani and Rice, "Saddle point
approximation for the distribution of the sum of independent random variables", Adv. Appl. Prob. 12 (1980), in place of
resampling.
"""

# Shapes: K different values, T simulated data sets.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from layercut.evidence.clusters import cluster_codes, cluster_sums
from layercut.evidence.intervals import Array
from layercut.evidence.sample_size import Outcomes

POWER = 0.8
"""Probability with which a planned number of items decides."""
MANY = 100
"""Times as many items as there are: an estimate above that says no more than "many"."""
_TRIES, _TRIES_OF_MANY, _FEW = 500, 200, 8
"""Simulated data sets: of up to ``_FEW`` different values, and of more."""


class Differences(NamedTuple):
    """Values of x whose mean is at least 0 where a plan keeps the share, and how often each occurs."""

    values: tuple[float, ...]
    """K values, of items or of contexts that items share."""
    shares: tuple[float, ...]
    worst: float
    best: float
    items: float = 1.0
    """Items in one context."""

    @classmethod
    def expected(cls, outcomes: Outcomes, *, keep: float, chance: float) -> Differences:
        """Of items that are right or wrong, from the expected shares of the four outcomes."""
        values = (
            (1 - chance) * (1 - keep), -chance - keep * (1 - chance), 1 - chance + keep * chance, -chance * (1 - keep)
        )  # fmt: skip
        return cls(values, tuple(outcomes), values[1], values[2])

    @classmethod
    def measured(
        cls, uncut: Sequence[float], cut: Sequence[float], *, keep: float, chance: float, clusters: Sequence[str] | None
    ) -> Differences:
        """Of N items that both models answered, as if each further one were like one of these."""
        found = np.asarray(cut, float) - chance - keep * (np.asarray(uncut, float) - chance)
        codes = cluster_codes(clusters, len(found))
        units = found if codes is None else cluster_sums(found, codes)
        values, counts = np.unique(units, return_counts=True)
        items = len(found) / len(units)
        ends = (-chance - keep * (1 - chance)) * items, (1 - chance + keep * chance) * items
        return cls(tuple(values.tolist()), tuple((counts / len(units)).tolist()), *ends, items)

    def negated(self) -> Differences:
        """The same for the bound that shows that a plan keeps less."""
        return self._replace(values=tuple(-one for one in self.values), worst=-self.best, best=-self.worst)


@lru_cache(maxsize=4096)
def decides(found: Differences, num_items: int, error: float) -> float:
    """Probability that ``num_items`` items show that the mean of x is at least 0, at this error rate."""
    units = max(1, round(num_items / found.items))
    shares = np.asarray(found.shares)
    tries = _TRIES if len(shares) <= _FEW else _TRIES_OF_MANY
    drawn = np.random.default_rng(0).multinomial(units, shares / shares.sum(), size=tries)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    below = _below_zero(np.array([*found.values, found.worst]), np.column_stack([counts, np.ones(len(counts))]))
    return float((below <= error) @ times / tries)


def items_to_decide(found: Differences, error: float, *, start: int, most: int, power: float = POWER) -> int | None:
    """The least number of items from ``start`` to ``most`` that decide with this power, to 2 %, or None."""
    return least(lambda number: decides(found, number, error) >= power, start, most)


def least(enough: Callable[[int], bool], start: int, most: int, parts: int = 50) -> int | None:
    """The least number between ``start`` and ``most`` that is enough, to one of ``parts``; None where none is."""
    low, high = start - 1, start
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // parts):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _below_zero(x: Array, counts: Array) -> Array:
    """(T,) probabilities that a sum of Gamma(counts) weights times x, both (T, K) or (K,), lies below 0."""
    there = counts > 0
    lowest = np.where(there, x, np.inf).min(axis=1)
    highest = np.where(there, x, -np.inf).max(axis=1)
    result = np.where(highest <= 0, 1.0, 0.0)
    mixed = (lowest < 0) & (highest > 0)
    if not mixed.any():
        return result
    counts, low, high = counts[mixed], 1 / lowest[mixed], 1 / highest[mixed]
    x = np.where(counts > 0, x, 0.0)
    for _ in range(32):  # the saddlepoint, where the derivative of K(t) = -sum n log(1 - t x) is 0
        t = (low + high) / 2
        scaled = 1 - t[:, None] * x
        slope = (counts * x / scaled).sum(axis=1)
        low, high = np.where(slope < 0, t, low), np.where(slope < 0, high, t)
    height = -(counts * np.log(scaled)).sum(axis=1)
    w = np.sign(t) * np.sqrt(np.maximum(-2 * height, 0.0))
    u = t * np.sqrt((counts * (x / scaled) ** 2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = ndtr(w) + np.exp(-(w**2) / 2) / math.sqrt(2 * math.pi) * (1 / w - 1 / u)
    result[mixed] = np.where(np.abs(w) < 1e-4, 0.5, tail)
    return result
