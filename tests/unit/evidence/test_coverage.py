"""Nominal 95 % intervals hold the truth in 93 to 97 of 100 simulated evaluations whose truth is known.

Experiments are drawn from known shares, equal ones are judged once and counted as often as they were drawn.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom, norm

from layercut.evidence.intervals import Estimate, mean_interval, proportion_interval
from layercut.evidence.paired import compare_paired
from tests.support.near_chance import near_chance, pairs

NUM_EXPERIMENTS = {50: 4000, 100: 2000, 500: 1000}
"""By number of items; the standard error of a coverage of 0.95 is 0.003 to 0.007."""
NUM_RESAMPLES = 3000


@pytest.mark.parametrize("n", [50, 100, 500])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_wilson(n, p):
    """Exactly: the sum of the binomial probabilities of the outcomes whose interval holds p."""
    held = [holds(proportion_interval(k, n), p) for k in range(n + 1)]
    assert 0.93 <= binom.pmf(np.arange(n + 1), n, p) @ held <= 0.97


class Coverage(NamedTuple):
    difference: float
    retention: float
    """Among the experiments in which it is printed."""
    above_chance: float
    printed: float
    """Share of experiments in which retention above chance is printed."""


def cells(uncut: float, cut: float, correlation: float) -> list[float]:
    """Shares of both right, lost, gained, both wrong."""
    spread = np.sqrt(uncut * (1 - uncut) * cut * (1 - cut))
    both = min(uncut * cut + correlation * spread, uncut, cut)
    return [both, uncut - both, cut - both, 1 - uncut - cut + both]


def simulate(n: int, uncut: float, cut: float, chance: float, correlation: float = 0.3) -> Coverage:
    rng = np.random.default_rng([n, *(int(1000 * share) for share in (uncut, cut, chance, correlation))])
    drawn = rng.multinomial(n, cells(uncut, cut, correlation), size=NUM_EXPERIMENTS[n])
    outcomes, times = np.unique(drawn, axis=0, return_counts=True)
    held, printed = np.zeros(3), np.zeros(3)
    truths = (cut - uncut, cut / uncut, (cut - chance) / (uncut - chance))
    for seed, (four, count) in enumerate(zip(outcomes, times, strict=True)):
        # A seed of its own each, or all the experiments would share the error of one set of resamples.
        found = compare_paired(*pairs(*four), chance=chance, seed=seed, num_resamples=NUM_RESAMPLES)
        estimates = (found.difference, found.retention, found.retention_above_chance)
        for index, (estimate, truth) in enumerate(zip(estimates, truths, strict=True)):
            if estimate is not None:
                printed[index] += count
                held[index] += count * holds(estimate, truth)
    return Coverage(*(held / printed), printed=float(printed[2] / NUM_EXPERIMENTS[n]))


@pytest.mark.parametrize("n", [50, 100, 500])
@pytest.mark.parametrize("uncut", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_difference_and_retention(n, uncut, kept):
    chance = 0.0 if uncut == 0.05 else 0.25  # 5 % is no score on four options
    found = simulate(n, uncut, uncut * kept, chance)
    for coverage in (found.difference, found.retention, found.above_chance):
        assert 0.93 <= coverage <= 0.97
    assert found.printed > 0.9


@pytest.mark.parametrize(("n", "uncut"), [(50, 0.3), (100, 0.3), (50, 0.05)])
def test_near_chance_retention_is_mostly_refused_and_what_is_printed_is_rarely_wrong(n, uncut):
    """Printed only where luck lifted the uncut score, so its coverage among the few that are printed falls short.

    What a reader meets is a printed interval that misses; of all experiments these are fewer than 5 %.
    """
    found = simulate(n, uncut, uncut, chance=0.25 if uncut == 0.3 else 0.02)
    assert found.printed < 0.5
    assert (1 - found.above_chance) * found.printed < 0.05
    assert found.above_chance >= 0.88


@pytest.mark.parametrize(
    ("uncut", "correlation", "printed", "coverage"),
    [(0.26, 0.0, 0.04, 0.76), (0.26, 0.3, 0.04, 0.88), (0.3, 0.0, 0.14, 0.88), (0.3, 0.3, 0.14, 0.92)],
)
def test_coverage_near_chance_is_what_the_page_on_statistics_says(uncut, correlation, printed, coverage):
    found = near_chance(50, uncut, 1.0, 0.25, correlation=correlation)
    assert found.printed == pytest.approx(printed, abs=0.01)
    assert found.coverage == pytest.approx(coverage, abs=0.03)
    assert found.misses < 0.03


@pytest.mark.parametrize(("n", "uncut"), [(50, 0.05), (50, 0.95), (100, 0.95)])
def test_models_that_hardly_differ_get_careful_intervals(n, uncut):
    """Fewer than three items on which they differ are expected: no interval can be exact there, this one is wide."""
    _, lost, gained, _ = cells(uncut, uncut, 0.7)
    assert n * (lost + gained) < 3
    found = simulate(n, uncut, uncut, chance=0.0, correlation=0.7)
    assert min(found.difference, found.retention) >= 0.95


@pytest.mark.parametrize(("k", "size"), [(8, 10), (40, 6)])
def test_clusters(k, size, monkeypatch):
    """Items of a cluster share half of what makes them hard; taken one by one they promise far too much."""
    monkeypatch.setattr("layercut.evidence.paired._sign_flip", lambda *_: 1.0)  # most of the time, and not looked at
    rng = np.random.default_rng([k, size])
    uncut, cut = 0.6, 0.5
    held, plain = np.zeros(3), np.zeros(2)
    names = [f"c{i // size}" for i in range(k * size)]
    experiments = 300
    for seed in range(experiments):
        before, after = (np.array(values) for values in clustered_pair(rng, k, size, uncut, cut))
        found = compare_paired(before, after, chance=0.0, seed=seed, num_resamples=1000, clusters=names)
        truths = ((found.uncut, uncut), (found.difference, cut - uncut), (found.retention, cut / uncut))
        held += [holds(*one) for one in truths]
        apart = compare_paired(before, after, chance=0.0, seed=seed, num_resamples=1000)
        plain += [holds(apart.uncut, uncut), holds(apart.difference, cut - uncut)]
    assert (held / experiments >= 0.91).all()  # the standard error is 0.013
    assert (held / experiments <= 0.985).all()
    assert (plain / experiments < 0.87).all()


def clustered_pair(rng: np.random.Generator, k: int, size: int, uncut: float, cut: float) -> Iterator[np.ndarray]:
    """Right or wrong of both models: hardness of the cluster, of the item, and each model's own of both."""
    context, item = np.repeat(rng.normal(size=k), size), rng.normal(size=k * size)
    for share in (uncut, cut):
        own_context, own = np.repeat(rng.normal(size=k), size), rng.normal(size=k * size)
        latent = np.sqrt(0.5) * (0.7 * context + np.sqrt(0.51) * own_context)
        latent += np.sqrt(0.5) * (0.7 * item + np.sqrt(0.51) * own)
        yield (latent < norm.ppf(share)).astype(float)


def test_clustered_means_that_are_not_shares():
    rng = np.random.default_rng(3)
    held = 0
    names = [f"c{i // 8}" for i in range(160)]
    for _ in range(600):
        values = np.repeat(rng.normal(size=20), 8) + rng.normal(size=160) + 2.0
        estimate = mean_interval(list(values), clusters=names)
        assert estimate.method == "clustered t"
        held += holds(estimate, 2.0)
    assert 0.93 <= held / 600 <= 0.97


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low - 1e-9 <= truth <= estimate.high + 1e-9
