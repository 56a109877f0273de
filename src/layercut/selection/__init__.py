"""Choosing layers: criteria by name, resolved on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from layercut.errors import unknown

if TYPE_CHECKING:
    from layercut.selection.base import Criterion

CRITERIA = {
    "angular_distance": "layercut.selection.angular_distance:angular_distance",
    "block_influence": "layercut.selection.block_influence:block_influence",
    "magnitude": "layercut.selection.magnitude:magnitude",
    "perplexity": "layercut.selection.perplexity:perplexity",
    "random": "layercut.selection.position:random",
    "refine": "layercut.selection.refine:refine",
    "reverse": "layercut.selection.position:reverse",
    "task_accuracy": "layercut.selection.task_accuracy:task_accuracy",
    "taylor": "layercut.selection.taylor:taylor",
    "trace_damage": "layercut.selection.trace_damage:trace_damage",
}
"""Name to ``module:function``. A name that is not here is taken as ``my.module:function``."""


def criterion(name: str) -> Criterion:
    """The function behind a criterion's name, or behind ``my.module:function``.

    Raises:
        InputError: no such criterion; the nearest name and all names are given.
    """
    target = CRITERIA.get(name, name)
    module, _, function = target.partition(":")
    if not function:
        raise unknown("criterion", name, CRITERIA, "Your own is named my.module:function.")
    try:
        return cast("Criterion", getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise unknown("criterion", name, CRITERIA, f"({error})") from error
