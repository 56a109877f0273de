"""Which plan and which way of making its model is tested, and seconds by what stays of a model."""

import pytest

from layercut.pruning.search import choose_way, next_size
from layercut.pruning.settings import PruneSettings
from layercut.pruning.speed import TimeParts
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
def test_halving_finds_the_largest_size_that_keeps_the_goal(largest):
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
def test_a_sized_plan_is_tested_healed_unless_that_keeps_clearly_less(plain, healed, way):
    assert sized(0.15, plain, healed).healing == way


def test_the_parts_of_a_time_are_found_again_and_none_is_negative():
    true, stay = TimeParts(fixed=2.0, layer=0.3, channels=0.5), [(6, 1.0), (6, 0.5), (3, 1.0), (3, 0.5)]
    seconds = [true.seconds(*plan) for plan in stay]
    assert seconds == pytest.approx([6.8, 5.3, 4.4, 3.65])
    assert TimeParts.fitted(stay, seconds).model_dump() == pytest.approx(true.model_dump())
    slower = [5.0, 6.0, 5.0, 6.0]  # thinner MLPs took longer
    assert TimeParts.fitted(stay, slower).model_dump() == pytest.approx({"fixed": 5.5, "layer": 0, "channels": 0})
