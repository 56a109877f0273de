"""How many items: a published number, simulation, and shares that cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from layercut.errors import InputError
from layercut.evidence.paired import compare_paired
from layercut.evidence.sample_size import expect, items_needed, mcnemar_power


def test_connors_formula_by_hand() -> None:
    # psi = 0.2 and delta = 0.1: (1.95996 sqrt(0.2) + 0.84162 sqrt(0.19))^2 / 0.01 = 154.5
    expected = expect(baseline=0.5, retention=0.8, agreement=0.8)
    assert expected.outcomes == pytest.approx((0.35, 0.15, 0.05, 0.45))
    needed = items_needed(expected)
    assert needed.by_formula == 155
    assert 155 <= needed.to_see_the_difference <= 175


@pytest.mark.parametrize(("baseline", "retention", "chance"), [(0.6, 0.8, 0.0), (0.9, 0.9, 0.25), (0.3, 0.4, 0.02)])
def test_the_power_is_there_in_simulation(baseline: float, retention: float, chance: float) -> None:
    expected = expect(baseline=baseline, retention=retention, chance=chance)
    needed = items_needed(expected, power=0.8)
    rng = np.random.default_rng(int(100 * baseline))
    drawn = rng.multinomial(needed.to_see_the_difference, expected.outcomes, size=4000)
    pairs, times = np.unique(drawn[:, 1:3], axis=0, return_counts=True)
    found = [
        binomtest(int(lost), int(lost + gained)).pvalue < 0.05 if lost + gained else False for lost, gained in pairs
    ]
    power = times @ np.array(found) / 4000
    assert power == pytest.approx(needed.power, abs=0.02)
    assert power >= 0.78
    assert mcnemar_power(needed.to_see_the_difference // 2, expected.outcomes) < 0.8


def test_the_exact_test_keeps_its_level_without_a_difference() -> None:
    same = expect(baseline=0.5, retention=1.0).outcomes
    assert 0.02 < mcnemar_power(200, same) <= 0.05


def test_the_interval_has_the_width_that_was_asked_for() -> None:
    expected = expect(baseline=0.8, retention=0.7, chance=0.25, correlation=0.4)
    n = items_needed(expected, half_width=0.08).to_pin_the_retention
    rng = np.random.default_rng(0)
    halves = []
    for seed, (both, lost, gained, neither) in enumerate(rng.multinomial(n, expected.outcomes, size=40)):
        uncut = [1.0] * (both + lost) + [0.0] * (gained + neither)
        cut = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
        kept = compare_paired(uncut, cut, chance=0.25, seed=seed, num_resamples=2000).retention_above_chance
        assert kept is not None
        assert kept.low is not None
        assert kept.high is not None
        halves.append((kept.high - kept.low) / 2)
    assert np.mean(halves) == pytest.approx(0.08, rel=0.06)


def test_what_makes_it_harder() -> None:
    def items(**more: float) -> int:
        expected = expect(baseline=0.6, retention=0.9, correlation=more.get("correlation", 0.5))
        rest = {name: value for name, value in more.items() if name != "correlation"}
        return items_needed(expected, **rest).to_see_the_difference  # type: ignore[arg-type]

    usual = items()
    assert usual == 566
    assert items(correlation=0.2) > usual
    assert items(power=0.9) > usual
    assert items(comparisons=12) > usual
    assert items(correlation=0.8) < usual


def test_the_assumed_correlation_gives_way_where_it_cannot_be() -> None:
    assert expect(baseline=0.6, retention=0.9).correlation == 0.5
    deep = expect(baseline=0.6, retention=0.1)
    assert deep.correlation == pytest.approx(math.sqrt(0.06 * 0.4 / (0.6 * 0.94)))
    assert deep.outcomes.gained == pytest.approx(0.0)
    items_needed(deep)


def test_agreement_and_correlation_say_the_same() -> None:
    one = expect(baseline=0.7, retention=0.8, chance=0.25, correlation=0.4)
    other = expect(baseline=0.7, retention=0.8, chance=0.25, agreement=one.outcomes.both + one.outcomes.neither)
    assert other.correlation == pytest.approx(0.4)
    assert sum(one.outcomes) == pytest.approx(1.0)
    assert one.retention == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expect(baseline=0.2, retention=0.9, chance=0.25), "baseline must lie above chance"),
        (lambda: expect(baseline=60, retention=0.9), "baseline must lie above chance and below 1"),
        (lambda: expect(baseline=0.6, retention=2.0), "gives 1.2; it must lie between 0 and 1"),
        (lambda: expect(baseline=0.6, retention=0.9, correlation=0.95), r"allow a correlation from -0.754 to 0.885"),
        (lambda: expect(baseline=0.6, retention=0.9, correlation=0.5, agreement=0.7), "give one of them"),
        (lambda: items_needed(expect(baseline=0.6, retention=1.0)), "no number of items can detect one"),
        (lambda: items_needed(expect(baseline=0.6, retention=0.9), power=80), "power 80 is not a share"),
        (lambda: items_needed(expect(baseline=0.6, retention=0.9999)), r"that takes [\d,]+ items"),
    ],
)
def test_bad_input(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()


def test_the_interval_without_correlation_is_that_of_two_shares() -> None:
    needed = items_needed(expect(baseline=0.5, retention=0.99, correlation=0.0), half_width=0.1)
    assert needed.to_pin_the_retention == pytest.approx(1.959964**2 * (0.25 + 0.25) / (0.1 * 0.5) ** 2, rel=0.02)
