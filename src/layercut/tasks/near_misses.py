"""Wrong options that are close to the right one."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

NUM_NEAR_MISSES = 3
_STEPS = (1, 2, 3, 4, 5, 10)


def near_numbers(gold: int, rng: Random, also: Iterable[int] = (), never: Iterable[int] = ()) -> tuple[str, ...]:
    """Three wrong numbers near a right one: slips in the first two digits, and numbers that a wrong step would give.

    How many of the three lie below the right one is drawn evenly from 0 to 3 (fewer where there is no room above zero),
    so that taking the middle or the largest option earns nothing.

    Args:
        gold: the right number; for a number that is not negative, no option is.
        rng: where the draw comes from; the same state gives the same numbers.
        also: results of likely mistakes, preferred to slips.
        never: numbers that must not be options.
    """
    unit = 10 ** max(0, len(str(abs(gold))) - 2)
    slips = {gold + sign * step * unit for sign in (-1, 1) for step in _STEPS}
    mistakes, barred = set(also), {gold, *never}
    wrong = {number for number in (slips | mistakes) - barred if number >= 0 or gold < 0}

    def preferred(numbers: set[int]) -> list[int]:
        # A drawn order, then mistakes before slips; sorted first, because the order of a set is nobody's promise.
        drawn = rng.sample(sorted(numbers), len(numbers))
        return sorted(drawn, key=lambda number: number not in mistakes)

    below = preferred({number for number in wrong if number < gold})
    above = preferred({number for number in wrong if number > gold})
    num_below = min(rng.randint(0, NUM_NEAR_MISSES), len(below))
    return tuple(str(number) for number in (*below[:num_below], *above[: NUM_NEAR_MISSES - num_below]))
