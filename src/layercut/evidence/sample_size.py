"""The number of items needed to detect a loss, before any of them is run.

Every item is answered by both models, so the number depends on how often they disagree: models with correlated right
answers need fewer items than two independent samples.
"""

# Shapes: N items, M discordant items.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom, norm

from layercut.errors import InputError

CORRELATION = 0.5
"""Assumed correlation of the two models' right answers over items, where nothing else is said and the shares allow it.
A lower one is the more careful assumption: it needs more items."""
_MOST_ITEMS = 5_000_000


class Outcomes(NamedTuple):
    """Expected shares of the four outcomes of an item."""

    both: float
    lost: float
    """Right in the original model only."""
    gained: float
    """Right in the pruned model only."""
    neither: float


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected of two models on a task."""

    baseline: float
    """Score of the original model, a share."""
    cut: float
    """Score of the pruned model."""
    chance: float
    correlation: float
    """Of right answers over items."""
    outcomes: Outcomes

    @property
    def retention(self) -> float:
        """Above chance; with a chance of 0, plainly cut / uncut."""
        return (self.cut - self.chance) / (self.baseline - self.chance)


class ItemsNeeded(NamedTuple):
    """The answer, and what it rests on."""

    to_see_the_difference: int
    """For McNemar's exact test to reach the power asked for."""
    power: float
    """That it then has."""
    by_formula: int
    """Connor's number for the test's normal approximation; the exact test needs a little more."""
    to_pin_the_retention: int
    """For a 1 - alpha interval of the retention of the half-width asked for."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(self._asdict())


def expect(
    *,
    baseline: float,
    retention: float,
    chance: float = 0.0,
    correlation: float | None = None,
    agreement: float | None = None,
) -> Expected:
    """Shares of the four outcomes, from the scores of the two models and how far their right answers go together.

    Args:
        baseline: score of the original model, between chance and 1.
        retention: above chance, (cut - chance) / (baseline - chance).
        chance: score of guessing.
        correlation: of right answers over items (phi); 0.5 if left out, or as much as the two scores allow.
        agreement: share of items on which both are right or both wrong, in place of the correlation.

    Raises:
        InputError: shares that cannot be, both correlation and agreement, or one that the scores do not allow.
    """
    if not 0 <= chance < baseline < 1:
        raise InputError(
            f"baseline {baseline:g} and chance {chance:g}: the baseline must lie above chance and below 1."
        )
    cut = chance + retention * (baseline - chance)
    if not 0 < cut < 1:
        raise InputError(
            f"retention {retention:g} of {baseline:g} above {chance:g} gives {cut:g}; it must lie between 0 and 1."
        )
    if correlation is not None and agreement is not None:
        raise InputError("correlation and agreement are alternatives; give one of them.")
    spread = math.sqrt(baseline * (1 - baseline) * cut * (1 - cut))
    fewest, most = max(0.0, baseline + cut - 1), min(baseline, cut)
    lowest, highest = ((both - baseline * cut) / spread for both in (fewest, most))
    if agreement is not None:
        correlation = ((agreement - (1 - baseline - cut)) / 2 - baseline * cut) / spread
    elif correlation is None:
        correlation = min(CORRELATION, highest)
    if not lowest - 1e-9 <= correlation <= highest + 1e-9:
        agreements = [1 - baseline - cut + 2 * both for both in (fewest, most)]
        raise InputError(
            f"scores of {baseline:g} and {cut:g} allow a correlation from {lowest:.3f} to {highest:.3f}, which is an "
            f"agreement from {agreements[0]:.3f} to {agreements[1]:.3f}; give one in between."
        )
    return Expected(
        baseline=baseline,
        cut=cut,
        chance=chance,
        correlation=correlation,
        outcomes=outcomes_of(baseline, cut, correlation),
    )


def outcomes_of(baseline: float, cut: float, correlation: float) -> Outcomes:
    """Shares of the four outcomes of two scores; a correlation beyond what the scores allow is the nearest allowed."""
    spread = math.sqrt(baseline * (1 - baseline) * cut * (1 - cut))
    both = min(max(baseline * cut + correlation * spread, 0.0, baseline + cut - 1), baseline, cut)
    return Outcomes(both, baseline - both, cut - both, max(0.0, 1 - baseline - cut + both))


def items_needed(
    expected: Expected, *, power: float = 0.8, alpha: float = 0.05, half_width: float = 0.1, comparisons: int = 1
) -> ItemsNeeded:
    """Items for a paired test, and for an interval of the retention.

    Test: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43
    (1987): n = (z_{1-alpha/2} sqrt(psi) + z_power sqrt(psi - delta^2))^2 / delta^2, with psi the share of items on
    which the models disagree and delta the difference of their scores. From there n is raised until the exact test has
    the power (see mcnemar_power).

    Interval: by the delta method the retention R varies by Var(cut - R uncut) / (n (baseline - chance)^2) per item, so
    n = z^2 Var(cut - R uncut) / (half_width (baseline - chance))^2.

    Args:
        expected: see expect.
        power: probability of seeing a difference that is there.
        alpha: level of the test, and 1 - level of the interval.
        half_width: of the retention's interval: 0.1 is ten points to each side.
        comparisons: how many are judged together; Holm's first step divides alpha by it.

    Raises:
        InputError: a probability out of range, no difference to see, or more than five million items.
    """
    for name, value in (("power", power), ("alpha", alpha), ("half-width", half_width)):
        if not 0 < value < 1:
            raise InputError(
                f"{name} {value:g} is not a share between 0 and 1, such as {0.05 if name == 'alpha' else 0.8}."
            )
    if comparisons < 1:
        raise InputError(f"{comparisons} comparisons cannot be; there is at least one.")
    delta = expected.cut - expected.baseline
    if abs(delta) < 1e-12:
        raise InputError(
            "a retention of 1 is no difference, so no number of items can detect one; give another retention."
        )
    level = alpha / comparisons
    psi = expected.outcomes.lost + expected.outcomes.gained
    z_alpha, z_power = float(norm.ppf(1 - level / 2)), float(norm.ppf(power))
    formula = (z_alpha * math.sqrt(psi) + z_power * math.sqrt(max(0.0, psi - delta**2))) ** 2 / delta**2
    ratio = expected.retention
    per_item = (
        expected.cut * (1 - expected.cut)
        + ratio**2 * expected.baseline * (1 - expected.baseline)
        - 2 * ratio * (expected.outcomes.both - expected.baseline * expected.cut)
    )
    z = float(norm.ppf(1 - alpha / 2))
    interval = z**2 * per_item / (half_width * (expected.baseline - expected.chance)) ** 2
    if max(formula, interval) > _MOST_ITEMS:
        raise InputError(f"that takes {max(formula, interval):,.0f} items; ask for a larger difference or half-width.")
    n = by_formula = math.ceil(formula)
    while (reached := mcnemar_power(n, expected.outcomes, level)) < power:
        n += max(1, n // 200)
    return ItemsNeeded(n, reached, by_formula, math.ceil(interval))


def mcnemar_power(n: int, outcomes: Outcomes, alpha: float = 0.05) -> float:
    """Probability that McNemar's exact test gives p < alpha on N items with these shares of outcomes.

    Summed over the number M of discordant items, which is Binomial(N, psi) with psi = lost + gained; of these,
    Binomial(M, lost / psi) are lost, and the test compares that with Binomial(M, 1/2).
    """
    psi = outcomes.lost + outcomes.gained
    m = np.arange(int(binom.ppf(1e-9, n, psi)), int(binom.ppf(1 - 1e-9, n, psi)) + 1)
    edge = binom.ppf(alpha / 2, m, 0.5)
    # The largest count whose two-sided p-value lies below alpha; -1 where even 0 of M is no finding.
    edge = np.where(2 * binom.cdf(edge, m, 0.5) < alpha, edge, edge - 1)
    share = outcomes.gained / psi
    reject = binom.cdf(edge, m, share) + binom.cdf(edge, m, 1 - share)
    return float(np.clip(reject, 0.0, 1.0) @ binom.pmf(m, n, psi))
