"""The goal of prune: what is refused, and how many items it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.bounds import retention_bounds
from layercut.evidence.sample_size import outcomes_of
from layercut.pruning.budget import (
    Yardstick,
    chance_to_pass,
    describe_power,
    items_for,
    must_keep,
)
from layercut.pruning.settings import PruneSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither was given"),
        ({"use": "math", "tasks": ("copy",)}, "one of the two"),
        ({"use": "math", "keep": 0}, "keep 0 is too small"),
        ({"use": "math", "keep": 1.1}, "keep 1.1 is too large"),
        ({"use": "math", "heal": "seams"}, "Did you mean seam?"),
        ({"use": "math", "items": 4}, "items 4 is too small"),
        ({"use": "math", "one_size": True}, "needs a size"),
    ],
)
def test_goals_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneSettings(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_more_items_let_a_plan_pass_that_keeps_less() -> None:
    task = Yardstick("copy (short)", 0.6, 0.05)
    shares = [must_keep(task, number, 0.9) or 2.0 for number in (50, 1600, 6400)]
    assert shares[0] == 2.0, "not even a plan that loses nothing"
    assert 0.9 < shares[2] < shares[1] < 1
    assert must_keep(task, items_for(task, 0.9, most=10**5) or 0, 0.9) == pytest.approx(0.95, abs=0.003)
    few, many = (describe_power([task], {task.label: number}, 0.9) for number in (50, 5000))
    assert not few[1] and "too few" in few[0] and many[1]


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize(("n", "score", "chance"), [(50, 0.6, 0.0), (100, 0.6, 0.0), (200, 0.8, 0.25)])
def test_a_plan_that_loses_nothing_passes_as_often_as_promised(
    n: int, score: float, chance: float, correlation: float
) -> None:
    """The promise against the rule itself, on drawn items."""
    task = Yardstick("mine (short)", score, chance, correlation)
    promised = chance_to_pass(task, n, 0.9)
    assert abs(promised - passed_share(task, n, 0.9, 1.0, runs=100)) < 0.15


def passed_share(task: Yardstick, n: int, keep: float, kept: float, runs: int) -> float:
    cut = task.chance + kept * (task.score - task.chance)
    outcomes = outcomes_of(task.score, cut, task.correlation)
    rng, passed = np.random.default_rng(3), 0
    pairs = np.array([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
    for seed in range(runs):
        drawn = pairs[rng.choice(4, size=n, p=list(outcomes))]
        low = retention_bounds(
            drawn[:, 0], drawn[:, 1], chance=task.chance, low_error=0.05, high_error=0.05, seed=seed,
            num_resamples=1000,
        ).low  # fmt: skip
        passed += low is not None and low >= keep
    return passed / runs


def test_the_simulated_power_is_what_the_sentence_says() -> None:
    """Plans that keep in truth what ``must_keep`` says pass about four times in five."""
    task = Yardstick("copy (short)", 0.7, 0.1)
    share = must_keep(task, 400, 0.8)
    assert share is not None
    assert 0.7 < passed_share(task, 400, 0.8, share, runs=120) < 0.92
