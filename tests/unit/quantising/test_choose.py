"""The choice of types against all choices, and what no budget allows."""

import itertools
import random

import pytest

from layercut.errors import InputError
from layercut.quantising.choose import choose_types

KINDS = {"IQ2_XS": 37, "Q3_K": 55, "Q4_K": 72, "Q8_0": 136}


def drawn(seed: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    draw = random.Random(seed)
    damages, sizes = {}, {}
    for name in "abcde":
        blocks, weight = draw.randint(1, 2000), 10 ** draw.uniform(-6, 0)
        sizes[name] = {kind: blocks * size for kind, size in KINDS.items()}
        damages[name] = {kind: weight * draw.uniform(0.7, 1.3) * 2.0 ** (-size / 9) for kind, size in KINDS.items()}
    return damages, sizes


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_within_the_budget_does_less_damage(seed):
    damages, sizes = drawn(seed)
    most = sum(sizes[name]["Q8_0"] for name in sizes)
    budget = int(most * random.Random(seed).uniform(0.3, 0.9))
    every = [dict(zip(sizes, kinds, strict=True)) for kinds in itertools.product(KINDS, repeat=len(sizes))]
    fitting = [types for types in every if sum(sizes[name][kind] for name, kind in types.items()) <= budget]
    best = min(sum(damages[name][kind] for name, kind in types.items()) for types in fitting)
    types = choose_types(damages, sizes, budget)
    assert sum(sizes[name][kind] for name, kind in types.items()) <= budget
    assert sum(damages[name][kind] for name, kind in types.items()) <= best * 1.001


def test_a_budget_of_the_smallest_types_is_met_to_the_byte_and_one_below_is_refused():
    damages, sizes = drawn(3)
    least = sum(min(kinds.values()) for kinds in sizes.values())
    assert set(choose_types(damages, sizes, least).values()) == {"IQ2_XS"}
    with pytest.raises(InputError, match=r"the smallest types of these tensors take .* Give a larger `size`"):
        choose_types(damages, sizes, least - 1)


def test_with_room_for_all_nothing_is_damaged_more_than_in_the_best_type():
    damages, sizes = drawn(5)
    assert set(choose_types(damages, sizes, 10**9).values()) == {"Q8_0"}
