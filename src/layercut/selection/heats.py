"""Heats: a task's items in small fixed groups that are asked together, in an order that is random to the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from layercut.tasks.base import Sample

HEAT = 16
"""Items of a heat. Small, so that a race stops early; not too small, because a heat is one call of the engine."""


def heats(samples: Sequence[Sample], seed: int) -> list[list[Sample]]:
    """The samples in heats of HEAT, the last one shorter.

    The order is that of a hash of (seed, id), so that the first heats are a random draw from all items wherever they
    come from, also from a file that is sorted by difficulty. All searches and sweeps in one folder ask in these heats,
    whoever is still in the race: so an item always meets the same others, and gets the same answer to the last bit.
    """
    order = sorted(samples, key=lambda sample: (hashlib.sha256(f"{seed}:{sample.id}".encode()).digest(), sample.id))
    return [order[start : start + HEAT] for start in range(0, len(order), HEAT)]
