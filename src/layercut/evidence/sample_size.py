"""The number of items needed to detect a loss, or to decide whether a plan keeps enough, before any of them is run."""

# Shapes: N items, M discordant items, K different values, T simulated data sets.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy

from layercut.errors import InputError
from layercut.evidence.intervals import ALPHA, Array, cluster_codes, cluster_sums

CORRELATION = 0.5
"""Assumed correlation of the two models' right answers over items. A lower one is the more careful assumption: it needs
more items."""
_MOST_ITEMS = 5_000_000


class Outcomes(NamedTuple):
    """Expected shares of the four outcomes of an item."""

    both: float
    lost: float  # right in the original model only
    gained: float  # right in the pruned model only
    neither: float


def expect_outcomes(*, baseline: float, retention: float, chance: float = 0.0) -> Outcomes:
    """Shares of the four outcomes, by scores and the assumed correlation. InputError: shares that cannot be."""
    if not 0 <= chance < baseline < 1:
        raise InputError(
            f"baseline {baseline:g} and chance {chance:g}: the baseline must lie above chance and below 1."
        )
    pruned = chance + retention * (baseline - chance)
    if not 0 < pruned < 1:
        raise InputError(
            f"retention {retention:g} of {baseline:g} above {chance:g} gives {pruned:g}; it must lie between 0 and 1."
        )
    return outcomes_of(baseline, pruned, CORRELATION)


def outcomes_of(baseline: float, cut: float, correlation: float) -> Outcomes:
    """Shares of the four outcomes of two scores; a correlation beyond what the scores allow is the nearest allowed."""
    spread = math.sqrt(baseline * (1 - baseline) * cut * (1 - cut))
    both = min(max(baseline * cut + correlation * spread, 0.0, baseline + cut - 1), baseline, cut)
    return Outcomes(both, baseline - both, cut - both, max(0.0, 1 - baseline - cut + both))


def items_needed(outcomes: Outcomes, *, comparisons: int = 1) -> int:
    """Items for McNemar's exact test to reach a power of ``POWER``, as one of several comparisons (Holm)."""
    level = ALPHA / comparisons
    needed = least_number(lambda n: mcnemar_power(n, outcomes, level) >= POWER, 1, _MOST_ITEMS, parts=200)
    if needed is None:
        raise InputError(f"more than {_MOST_ITEMS:,} items would be needed; give a retention that is farther from 1.")
    return needed


def mcnemar_power(n: int, outcomes: Outcomes, alpha: float = ALPHA) -> float:
    """Probability that McNemar's exact test gives p < alpha on N items with these shares of outcomes.

    Summed over the number M of discordant items, which is Binomial(N, psi) with psi = lost + gained; of these,
    Binomial(M, lost / psi) are lost, and the test compares that with Binomial(M, 1/2).
    """
    psi = outcomes.lost + outcomes.gained
    m = np.arange(int(scipy.stats.binom.ppf(1e-9, n, psi)), int(scipy.stats.binom.ppf(1 - 1e-9, n, psi)) + 1)
    edge = scipy.stats.binom.ppf(alpha / 2, m, 0.5)
    # The largest count whose two-sided p-value lies below alpha; -1 where even 0 of M is no finding.
    edge = np.where(2 * scipy.stats.binom.cdf(edge, m, 0.5) < alpha, edge, edge - 1)
    share = outcomes.gained / psi
    reject = scipy.stats.binom.cdf(edge, m, share) + scipy.stats.binom.cdf(edge, m, 1 - share)
    return float(np.clip(reject, 0.0, 1.0) @ scipy.stats.binom.pmf(m, n, psi))


POWER = 0.8
"""Probability with which a planned number of items decides."""
MANY = 100
"""Times as many items as there are: an estimate above that says no more than "many"."""
_TRIES, _TRIES_OF_MANY, _FEW = 4000, 1000, 8  # simulated data sets: of up to _FEW different values, and of more


class Differences(NamedTuple):
    """Values of x whose mean is at least 0 where a plan keeps the share, and how often each occurs."""

    values: tuple[float, ...]  # K values, of items or of contexts that items share
    shares: tuple[float, ...]
    worst: float
    best: float
    items: float = 1.0  # items in one context

    @classmethod
    def expected(cls, outcomes: Outcomes, *, keep: float, chance: float) -> Differences:
        """Differences of items that are right or wrong, from the expected shares of the four outcomes."""
        values = (
            (1 - chance) * (1 - keep), -chance - keep * (1 - chance), 1 - chance + keep * chance, -chance * (1 - keep)
        )  # fmt: skip
        return cls(values, tuple(outcomes), values[1], values[2])

    @classmethod
    def measured(
        cls, uncut: Sequence[float], cut: Sequence[float], *, keep: float, chance: float, clusters: Sequence[str] | None
    ) -> Differences:
        """Differences of N items that both models answered, as if each further one were like one of these."""
        differences = np.asarray(cut, float) - chance - keep * (np.asarray(uncut, float) - chance)
        codes = cluster_codes(clusters, len(differences))
        units = differences if codes is None else cluster_sums(differences, codes)
        values, counts = np.unique(units, return_counts=True)
        items = len(differences) / len(units)
        ends = (-chance - keep * (1 - chance)) * items, (1 - chance + keep * chance) * items
        return cls(tuple(values.tolist()), tuple((counts / len(units)).tolist()), *ends, items)

    def negated(self) -> Differences:
        """The same for the bound that shows that a plan keeps less."""
        return self._replace(values=tuple(-value for value in self.values), worst=-self.best, best=-self.worst)


@lru_cache(maxsize=4096)
def power_to_decide(differences: Differences, num_items: int, error: float) -> float:
    """Probability that ``num_items`` items show that the mean of x is at least 0, at this error rate, by simulation.

    The rule is that of ``layercut.evidence.bounds``: P(S < 0) is at most the error, with S = sum_i g_i x_i + g_0 x_0,
    standard exponential weights g and x_0 the worst value there can be. Data sets are drawn, and P(S < 0) of each is
    computed by the saddlepoint formula of Lugannani and Rice (Adv. Appl. Prob. 12, 1980), in place of resampling.
    """
    units = max(1, round(num_items / differences.items))
    shares = np.asarray(differences.shares)
    tries = _TRIES if len(shares) <= _FEW else _TRIES_OF_MANY
    drawn = np.random.default_rng(0).multinomial(units, shares / shares.sum(), size=tries)
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    below = _below_zero(
        np.array([*differences.values, differences.worst]), np.column_stack([counts, np.ones(len(counts))])
    )
    return float((below <= error) @ times / tries)


def items_to_decide(differences: Differences, error: float, *, start: int, most: int) -> int | None:
    """The least number of items from ``start`` to ``most`` that decide with a power of ``POWER``, to 2 %, or None."""
    return least_number(lambda number: power_to_decide(differences, number, error) >= POWER, start, most)


def least_number(enough: Callable[[int], bool], start: int, most: int, parts: int = 50) -> int | None:
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
        tail = scipy.special.ndtr(w) + np.exp(-(w**2) / 2) / math.sqrt(2 * math.pi) * (1 / w - 1 / u)
    result[mixed] = np.where(np.abs(w) < 1e-4, 0.5, tail)
    return result
