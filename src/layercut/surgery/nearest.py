"""The nearest plan that a model allows, for the line that refuses another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from layercut.errors import CheckpointError, InputError
from layercut.surgery.config_fields import PlanRefused
from layercut.surgery.plan import CutPlan
from layercut.text.removal import format_layers

MOST_TRIES = 40
"""Plans that are tried; each may take a layout of the model."""


def with_nearest(refused: PlanRefused, plan: CutPlan, check: Callable[[CutPlan], object]) -> PlanRefused:
    """The refusal of a plan, with the nearest one that works.

    Args:
        refused: why not.
        plan: what was asked for.
        check: raises if a plan does not work either.
    """
    for tried, removed in enumerate(_by_distance(plan)):
        if tried == MOST_TRIES:
            break
        try:
            check(CutPlan(num_layers=plan.num_layers, removed=removed))
        except (InputError, CheckpointError):
            continue
        return PlanRefused(f"{refused} The nearest plan that works removes {format_layers(removed)}.")
    return PlanRefused(f"{refused} No plan near it that removes as many layers works.")


def _by_distance(plan: CutPlan) -> Iterator[tuple[int, ...]]:
    """Plans that remove as many layers: those that differ by one layer, then the whole moved, then the last layers."""
    size, removed = plan.num_layers, sorted(plan.removed)
    seen = {tuple(removed)}

    def moved() -> Iterator[tuple[int, ...]]:
        for step in range(1, size):
            for index in reversed(range(len(removed))):
                for target in (removed[index] + step, removed[index] - step):
                    yield tuple(sorted({*removed[:index], *removed[index + 1 :], target}))
            for shift in (step, -step):
                yield tuple(layer + shift for layer in removed)
            if step == 2:
                yield tuple(range(size - len(removed), size))

    for found in moved():
        if len(found) == len(removed) and found[0] >= 0 and found[-1] < size and found not in seen:
            seen.add(found)
            yield found
