from __future__ import annotations

from layercut.selection.answers import HEAT, heats
from layercut.tasks.base import Sample

SAMPLES = [Sample(id=f"item-{number}", question="?", gold="yes") for number in range(3 * HEAT + 5)]


def test_every_item_is_in_one_heat_whatever_the_order_of_the_list() -> None:
    found = heats(SAMPLES, 0)
    assert [len(heat) for heat in found] == [HEAT, HEAT, HEAT, 5]
    assert sorted(sample.id for heat in found for sample in heat) == sorted(sample.id for sample in SAMPLES)
    assert heats(SAMPLES[::-1], 0) == found
    assert heats([], 0) == []


def test_the_order_is_random_and_of_the_seed() -> None:
    numbers = [int(sample.id.split("-")[1]) for heat in heats(SAMPLES, 0) for sample in heat]
    assert numbers != sorted(numbers)
    # A file that is sorted by difficulty: the first heat must not be the easy ones.
    assert 15 < sum(numbers[:HEAT]) / HEAT < 37
    assert heats(SAMPLES, 1) != heats(SAMPLES, 0)
