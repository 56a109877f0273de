"""Choose the type of each tensor: the least damage in so many bytes, a multiple-choice knapsack problem."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from layercut.errors import InputError
from layercut.runs.disk import size_text

_GAP = 1e-4  # of the least damage, within which a choice counts as the best


def choose_types(
    damages: Mapping[str, Mapping[str, float]], sizes: Mapping[str, Mapping[str, int]], budget: int
) -> dict[str, str]:
    """By tensor its type, so that the sum of damages is least and the sum of bytes at most ``budget``.

    Args:
        damages: by tensor and type, in nats a token.
        sizes: by tensor and type, in bytes.
        budget: bytes of these tensors.

    Raises:
        InputError: a budget below the smallest types.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    options = [(name, kind) for name, kinds in damages.items() for kind in kinds]
    place = {name: row for row, name in enumerate(damages)}
    least = sum(min(sizes[name][kind] for kind in kinds) for name, kinds in damages.items())
    if least > budget:
        raise InputError(
            f"the smallest types of these tensors take {size_text(least)}, and {size_text(budget)} are left for them. "
            "Give a larger `size`, or remove tokens, channels or layers too (`remove`)."
        )
    damage = np.array([damages[name][kind] for name, kind in options])
    size = np.array([float(sizes[name][kind]) for name, kind in options])
    rows = [place[name] for name, _ in options]
    of_tensor = coo_array((np.ones(len(options)), (rows, range(len(options)))))
    # Both sums are scaled to about one, as the solver's tolerances are absolute.
    solved = milp(
        damage / max(damage.max(), 1e-30),
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(of_tensor, 1, 1), LinearConstraint(size[None] / budget, 0, 1)],
        options={"mip_rel_gap": _GAP},
    )
    assert solved.success, solved.message
    chosen = {name: kind for (name, kind), taken in zip(options, solved.x, strict=True) if taken > 0.5}
    return _shrink(chosen, damages, sizes, budget)


def _shrink(
    chosen: dict[str, str],
    damages: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, Mapping[str, int]],
    budget: int,
) -> dict[str, str]:
    """The choice within the budget to the byte: the solver's tolerance may exceed it by a millionth."""
    while (over := sum(sizes[name][kind] for name, kind in chosen.items()) - budget) > 0:
        steps = [
            (damages[name][kind] - damages[name][now], name, kind)
            for name, now in chosen.items()
            for kind in damages[name]
            if sizes[name][now] - sizes[name][kind] >= min(over, 1)
        ]
        _, name, kind = min(steps)
        chosen[name] = kind
    return chosen
