"""Choosing layers: criteria by name, resolved on first use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from layercut.errors import unknown_name
from layercut.runs.foreign_code import check_function_name, function_named

if TYPE_CHECKING:
    from layercut.selection.base import Criterion


@dataclass(frozen=True, kw_only=True)
class CriterionRow:
    """Properties of a criterion that are known before its code is imported."""

    function: str
    needs_model: bool = True  # False: it uses only a layer's position and can be named where no model runs
    needs_text: bool = False
    needs_objective: bool = False
    needs_traces: bool = False  # of the objective's tasks it reads the original model's right answers
    protects_first_layer: bool = False  # layer 0 is protected unless protected layers are given
    is_nested: bool = False  # its plan of more layers contains that of fewer, whatever its settings
    is_drawn: bool = False  # a seed decides which layers
    searches: tuple[str, ...] = ()
    """Its setting ``search``, the default first: ``greedy`` measures the layers that are left after each removal,
    ``one_shot`` each layer once. Empty: the original model is read once, or there is nothing to choose."""


_HERE = "layercut.selection"
CRITERIA = {
    "angular_distance": CriterionRow(function=f"{_HERE}.criteria:angular_distance", needs_text=True),
    "block_influence": CriterionRow(function=f"{_HERE}.criteria:block_influence", needs_text=True, is_nested=True),
    "perplexity": CriterionRow(
        function=f"{_HERE}.perplexity:choose_by_loss", needs_text=True, is_nested=True, searches=("greedy", "one_shot")
    ),
    "random": CriterionRow(function=f"{_HERE}.base:random_layers", needs_model=False, is_nested=True, is_drawn=True),
    "reverse": CriterionRow(function=f"{_HERE}.base:last_layers", needs_model=False, is_nested=True),
    "task_accuracy": CriterionRow(
        function=f"{_HERE}.task_criteria:task_accuracy", needs_objective=True, protects_first_layer=True,
        is_nested=True, searches=("greedy",),
    ),
    "trace_damage": CriterionRow(
        function=f"{_HERE}.task_criteria:trace_damage", needs_objective=True, needs_traces=True,
        is_nested=True, searches=("one_shot", "greedy"),
    ),
}  # fmt: skip
"""By name. A name that is not here is taken as ``my.module:function``."""


def criterion_row(name: str) -> CriterionRow:
    """The row of a criterion, or of ``my.module:function``. Raises InputError: unknown, or not to be trusted."""
    if name in CRITERIA:
        return CRITERIA[name]
    if ":" not in name:
        raise unknown_name("criterion", name, CRITERIA, "Your own is named my.module:function.")
    check_function_name(name, "criterion")
    return CriterionRow(function=name, is_drawn=True)  # as far as is known


def find_criterion(name: str) -> Criterion:
    """The function of a criterion, or of ``my.module:function``; InputError for an unknown name."""
    module, _, function = criterion_row(name).function.partition(":")
    if name in CRITERIA:
        return cast("Criterion", getattr(importlib.import_module(module), function))
    return cast("Criterion", function_named(name, "criterion"))
