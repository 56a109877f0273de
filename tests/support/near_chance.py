"""How often printed intervals of the retention above chance hold the truth, where the original model is near chance.

    python -m tests.support.near_chance

The numbers of docs/reference/statistics.md ("Where 95 % is not 95 %"). A retention is printed only where the lower end
of the original model's interval lies above chance, so where that takes luck, its coverage among the printed ones falls
short.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from layercut.evidence.bounds import retention_bounds
from layercut.evidence.intervals import proportion_interval
from layercut.evidence.paired import compare_paired

NUM_EXPERIMENTS = 5_000
NUM_RESAMPLES = 3_000
Scores = Sequence[tuple[float, float]]
"""Of an item before and after."""


class NearChance(NamedTuple):
    """What a reader meets in one setting."""

    printed: float
    """Share of experiments that print a retention above chance."""
    coverage: float
    """Share of these whose interval holds the truth."""
    misses: float
    """Share of all experiments that print an interval without it."""


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    """Scores of the items before and after, of which so many are right in both, in one, or in neither."""
    uncut = [1.0] * (both + lost) + [0.0] * (gained + neither)
    return uncut, [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither


def kept_pairs(
    retention: float, n: int, rng: np.random.Generator | None = None, *, uncut: float = 0.7, chance: float = 0.1
) -> tuple[list[float], list[float]]:
    """Items of a model whose true retention above chance is known, drawn anew; without ``rng`` just as expected."""
    cut, gained = chance + retention * (uncut - chance), 0.02
    shares = [cut - gained, uncut - cut + gained, gained, 1 - uncut - gained]
    counts = np.diff(np.rint(np.cumsum([0.0, *shares]) * n).astype(int)) if rng is None else rng.multinomial(n, shares)
    return pairs(*counts)


def share_that_passes(
    scores: Scores, shares: Sequence[float], n: int, keep: float, chance: float, *, seed: int, tries: int
) -> float:
    """Of drawn data sets of n items with these scores before and after, how many the real rule lets pass."""
    rng, passed = np.random.default_rng(seed), 0
    for bootstrap_seed in range(tries):
        before, after = np.array(scores)[rng.choice(len(scores), size=n, p=shares)].T
        errors = {"low_error": 0.05, "high_error": 0.05}
        low = retention_bounds(before, after, chance=chance, **errors, seed=bootstrap_seed, num_resamples=1000).low
        passed += low is not None and low >= keep
    return passed / tries


def near_chance(
    n: int,
    uncut: float,
    kept: float,
    chance: float,
    *,
    correlation: float = 0.3,
    num_experiments: int = NUM_EXPERIMENTS,
    num_resamples: int = NUM_RESAMPLES,
) -> NearChance:
    """Simulate evaluations of n items; equal outcomes are judged once and counted as often as they were drawn.

    Args:
        n: items.
        uncut: true share of right answers of the original model.
        kept: true retention above chance.
        chance: score of guessing.
        correlation: of the two models' right answers.
        num_experiments: that are drawn.
        num_resamples: of each bootstrap.
    """
    cut = chance + kept * (uncut - chance)
    both = min(uncut * cut + correlation * np.sqrt(uncut * (1 - uncut) * cut * (1 - cut)), uncut, cut)
    shares = [both, uncut - both, cut - both, 1 - uncut - cut + both]
    rng = np.random.default_rng([n, *(int(1000 * share) for share in (uncut, kept, chance, correlation))])
    outcomes, times = np.unique(rng.multinomial(n, shares, size=num_experiments), axis=0, return_counts=True)
    printed = held = 0
    for seed, ((right, lost, gained, neither), count) in enumerate(zip(outcomes, times, strict=True)):
        low = proportion_interval(int(right + lost), n).low
        if low is None or low <= chance:
            continue
        found = compare_paired(
            *pairs(right, lost, gained, neither), chance=chance, seed=seed, num_resamples=num_resamples
        )
        estimate = found.retention_above_chance
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            printed += count
            held += count * (estimate.low - 1e-9 <= kept <= estimate.high + 1e-9)
    share = printed / num_experiments
    coverage = held / printed if printed else float("nan")
    return NearChance(share, coverage, share * (1 - coverage) if printed else 0.0)


NUM_ITEMS = (50, 100)
CHANCE_AND_UNCUT = ((0.25, 0.26), (0.25, 0.27), (0.25, 0.3), (0.5, 0.52), (0.5, 0.55), (0.02, 0.03), (0.02, 0.05))
KEPT = (1.0, 0.9)
CORRELATIONS = (0.0, 0.3, 0.7)


def main() -> None:
    """Print every setting, and the one that covers least last."""
    least = (1.0, "")
    for n, (chance, uncut), kept, correlation in product(NUM_ITEMS, CHANCE_AND_UNCUT, KEPT, CORRELATIONS):
        found = near_chance(n, uncut, kept, chance, correlation=correlation)
        line = (
            f"n {n:3}  chance {chance:4.0%}  uncut {uncut:4.0%}  kept {kept:4.0%}  correlation {correlation:.1f}  "
            f"printed {found.printed:6.1%}  of these true {found.coverage:6.1%}  false of all {found.misses:5.1%}"
        )
        print(line, flush=True)
        least = min(least, (found.coverage, line))
    print(f"least: {least[1]}")


if __name__ == "__main__":
    main()
