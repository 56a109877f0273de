from __future__ import annotations

from layercut.selection.answers import CHUNK_SIZE, chunks
from layercut.tasks.base import Sample

SAMPLES = [Sample(id=f"item-{number}", question="?", gold="yes") for number in range(3 * CHUNK_SIZE + 5)]


def test_every_item_is_in_one_heat_whatever_the_order_of_the_list() -> None:
    found = chunks(SAMPLES, 0)
    assert [len(chunk) for chunk in found] == [CHUNK_SIZE, CHUNK_SIZE, CHUNK_SIZE, 5]
    assert sorted(sample.id for chunk in found for sample in chunk) == sorted(sample.id for sample in SAMPLES)
    assert chunks(SAMPLES[::-1], 0) == found
    assert chunks([], 0) == []


def test_the_order_is_random_and_of_the_seed() -> None:
    numbers = [int(sample.id.split("-")[1]) for chunk in chunks(SAMPLES, 0) for sample in chunk]
    assert numbers != sorted(numbers)
    # A file that is sorted by difficulty: the first heat must not be the easy ones.
    assert 15 < sum(numbers[:CHUNK_SIZE]) / CHUNK_SIZE < 37
    assert chunks(SAMPLES, 1) != chunks(SAMPLES, 0)
