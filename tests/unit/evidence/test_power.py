"""How often items decide, against the rule itself."""

from __future__ import annotations

import numpy as np
import pytest

from layercut.evidence.bounds import retention_bounds
from layercut.evidence.power import MANY, Differences, _below_zero, decides, items_to_decide
from layercut.evidence.sample_size import outcomes_of


def measured(b: int, lost: int, gained: int, neither: int, keep: float = 0.9, chance: float = 0.0) -> Differences:
    uncut = [1.0] * (b + lost) + [0.0] * (gained + neither)
    cut = [1.0] * b + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return Differences.measured(uncut, cut, keep=keep, chance=chance, clusters=None)


def bound_is_reached(found: Differences, n: int, error: float, tries: int) -> float:
    """The share of drawn data sets in which the real rule decides; scores of 0 and 1 only."""
    rng, decided = np.random.default_rng(7), 0
    outcomes = {0.1: (1.0, 1.0), -0.9: (1.0, 0.0), 1.0: (0.0, 1.0), 0.0: (0.0, 0.0)}
    pairs = np.array([outcomes[round(value, 6)] for value in found.values])
    for seed in range(tries):
        drawn = pairs[rng.choice(len(pairs), size=n, p=found.shares)]
        low = retention_bounds(
            drawn[:, 0], drawn[:, 1], chance=0.0, low_error=error, high_error=error, seed=seed, num_resamples=1000
        ).low
        decided += low is not None and low >= 0.9
    return decided / tries


@pytest.mark.parametrize("outcomes", [(12, 0, 0, 8), (55, 2, 2, 41), (30, 1, 0, 9)])
def test_as_many_items_as_promised_decide(outcomes: tuple[int, int, int, int]) -> None:
    found = measured(*outcomes)
    needed = items_to_decide(found, 0.05, start=sum(outcomes) + 1, most=MANY * sum(outcomes))
    assert needed is not None
    assert 0.68 <= bound_is_reached(found, needed, 0.05, 100) <= 0.95


def test_twenty_items_of_which_none_was_lost_need_few_more() -> None:
    """The bound moves by 1 / n there; the former formula said 229."""
    needed = items_to_decide(measured(12, 0, 0, 8), 0.05, start=21, most=2000)
    assert needed is not None and 40 <= needed <= 60


def test_a_plan_on_the_edge_needs_more_items_than_can_be_said() -> None:
    assert items_to_decide(measured(90, 10, 0, 0), 0.05, start=101, most=MANY * 100) is None


def test_the_bound_that_shows_a_loss_is_the_mirror_image() -> None:
    lost = measured(60, 40, 0, 0).negated()
    assert decides(lost, 100, 0.05) > 0.95 and decides(measured(60, 40, 0, 0), 100, 0.05) < 0.01


def test_contexts_count_and_not_their_items() -> None:
    uncut, cut = [1.0] * 200, ([1.0] * 19 + [0.0]) * 10
    alone = Differences.measured(uncut, cut, keep=0.9, chance=0.0, clusters=None)
    shared = Differences.measured(uncut, cut, keep=0.9, chance=0.0, clusters=[str(i // 20) for i in range(200)])
    assert shared.items == 20 and decides(shared, 200, 0.05) < decides(alone, 200, 0.05)


def test_scores_between_0_and_1_need_fewer_items_than_right_and_wrong() -> None:
    rng = np.random.default_rng(0)
    uncut = rng.uniform(0.2, 0.6, 100)
    graded = Differences.measured(list(uncut), list(0.95 * uncut), keep=0.9, chance=0.0, clusters=None)
    binary = Differences.expected(outcomes_of(0.4, 0.38, 0.9), keep=0.9, chance=0.0)
    found = [items_to_decide(one, 0.05, start=10, most=10_000) for one in (graded, binary)]
    assert found[0] is not None and found[1] is not None and found[0] < found[1]


@pytest.mark.parametrize("outcomes", [(60, 0, 0, 40), (55, 5, 3, 37), (12, 0, 0, 8), (70, 9, 4, 17)])
@pytest.mark.parametrize(("keep", "chance"), [(0.9, 0.0), (0.8, 0.25)])
def test_the_tail_by_formula_is_that_of_resampling(
    outcomes: tuple[int, int, int, int], keep: float, chance: float
) -> None:
    found = Differences.expected(outcomes_of(0.5, 0.5, 0.5), keep=keep, chance=chance)
    (tail,) = _below_zero(np.array([*found.values, found.worst]), np.array([[*outcomes, 1.0]]))
    rng = np.random.default_rng(1)
    draws = rng.standard_gamma(np.array(outcomes, float), size=(200_000, 4)) @ np.array(found.values)
    draws += rng.standard_exponential(200_000) * found.worst
    assert abs(tail - (draws < 0).mean()) < 0.01
