"""Which way of making a plan's model is tested."""

from __future__ import annotations

import pytest

from layercut.pruning.search import choose_way, next_size
from layercut.pruning.settings import PruneSettings
from layercut.runs.prune import Estimated, PathStep, TaskKept, Tried


def sized(size: float, value: float, healed: float | None = None) -> PathStep:
    """A plan of a size that keeps this much on selection items, and healed."""
    ways = [Tried(kept=(kept_of_items(value),))]
    ways += [] if healed is None else [Tried(healing="seam", kept=(kept_of_items(healed),))]
    step = PathStep(size=size, tried=tuple(ways), depth=0, removed=(), mlp=0.1)
    return step.model_copy(update={"healing": choose_way(ways).healing})


def kept_of_items(value: float) -> TaskKept:
    estimate = Estimated(value=value, low=value - 0.2, high=value + 0.2, n=100)
    return TaskKept(task="sums", readout="short", uncut=estimate, cut=estimate, kept=estimate)


@pytest.mark.parametrize("largest", range(-1, 6))
def test_halving_finds_the_largest_size_that_keeps_the_goal(largest: int) -> None:
    sizes = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    settings = PruneSettings(use="copy", keep=0.8)
    steps: list[PathStep] = []
    while (place := next_size(sizes, settings, steps)) is not None:
        assert sizes[place] not in [step.size for step in steps]
        steps = sorted([*steps, sized(sizes[place], 0.9 if place <= largest else 0.7)], key=lambda step: step.size)
    assert len(steps) <= 4 == settings.num_plans(len(sizes))
    fine = [step.size for step in steps if step.chosen.kept[0].kept and step.chosen.kept[0].kept.value >= 0.8]
    assert fine[-1:] == ([sizes[largest]] if largest >= 0 else [])
    assert largest < 1 or fine[0] <= 0.1, "the test begins with a small size"


@pytest.mark.parametrize(
    ("plain", "healed", "way"), [(1.03, 0.95, "seam"), (0.7, 0.9, "seam"), (0.9, 0.71, "seam"), (0.9, 0.6, None)]
)
def test_a_sized_plan_is_tested_healed_unless_that_keeps_clearly_less(
    plain: float, healed: float, way: str | None
) -> None:
    assert sized(0.15, plain, healed).healing == way
