"""The halves are stable, balanced and decided by the id alone."""

from layercut.tasks.selected_items import half_of, items_hash


def test_halves_are_pinned():
    # A change here moves items from selection to report in every run that exists.
    assert [half_of(f"item-{i}") for i in range(6)] == ["selection"] * 2 + ["report"] + ["selection"] * 3


def test_halves_are_balanced():
    share = sum(half_of(f"gsm8k-{i}") == "selection" for i in range(10_000)) / 10_000
    assert 0.48 < share < 0.52


def test_items_hash_knows_the_set_and_nothing_else():
    assert items_hash(["a", "b"]) == items_hash(iter(["b", "a", "a"]))
    assert items_hash(["a", "b"]) != items_hash(["ab"])
    assert items_hash(["a", "b"]) != items_hash(["a"])
    assert len(items_hash([])) == 64
