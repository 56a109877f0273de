"""Wrong options that are close to the right one."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

NUM_NEAR_MISSES = 3
_STEPS = (1, 2, 3, 4, 5, 10)


def near_numbers(gold: int, rng: Random, also: Iterable[int] = (), never: Iterable[int] = ()) -> tuple[str, ...]:
    """Three wrong numbers near a right one: slips in its first two digits, and results of likely mistakes.

    How many of the three lie below the right one is drawn evenly from 0 to 3 (fewer where there is no space above
    zero), so that taking the middle or the largest option earns nothing.

    Args:
        gold: the right number; for a number that is not negative, no option is.
        rng: where the draw comes from; the same state gives the same numbers.
        also: results of likely mistakes.
        never: numbers that must not be options.
    """
    unit = 10 ** max(0, len(str(abs(gold))) - 2)
    slips = {gold + sign * step * unit for sign in (-1, 1) for step in _STEPS}
    wrong = {number for number in {*slips, *also} - {gold, *never} if number >= 0 or gold < 0}
    # Sorted, because the order of a set is nobody's promise.
    below = sorted(number for number in wrong if number < gold)
    above = sorted(number for number in wrong if number > gold)
    num_below = min(rng.randint(0, NUM_NEAR_MISSES), len(below))
    near = rng.sample(below, num_below) + rng.sample(above, NUM_NEAR_MISSES - num_below)
    return tuple(map(str, near))
