"""Choosing layers: criteria by name, resolved on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from layercut.errors import unknown

CRITERIA = {
    "random": "layercut.selection.position:random",
    "reverse": "layercut.selection.position:reverse",
}

Criterion = Callable[[int, int, int], tuple[int, ...]]
"""(num_layers, num_remove, seed) -> layers in order of removal."""


def criterion(name: str) -> Criterion:
    """The scoring function behind a name.

    Raises:
        InputError: no such criterion; the nearest name and all names are given.
    """
    if name not in CRITERIA:
        raise unknown("criterion", name, CRITERIA)
    module, function = CRITERIA[name].split(":")
    return cast("Criterion", getattr(importlib.import_module(module), function))
