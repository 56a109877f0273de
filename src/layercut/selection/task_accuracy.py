"""Iterative search by task scores: the layer goes whose loss the tasks notice least."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from layercut.errors import InputError
from layercut.selection.base import Context, Objective, Selection
from layercut.selection.greedy import greedy
from layercut.selection.objective import selected_on
from layercut.selection.options import choose
from layercut.surgery.plan import CutPlan

FIRST_LAYER = ("protect", "free")


def task_accuracy(context: Context) -> Selection:
    """Remove, one by one, the layer without which the tasks go best.

    Each round scores every remaining candidate on the selection items of all objective tasks, divides by the uncut
    model's score, takes the mean over tasks and removes the best; of equals the later layer goes. The "iterative"
    criterion of arXiv:2602.01997, which samples at temperature 0.9; here decoding is greedy unless asked otherwise.

    Settings:
        first_layer: ``protect`` (default) keeps layer 0, as the paper does. It holds only where the context protects
            nothing: layers that the caller protects are taken as they are, and layer 0 is then free unless named.
            ``free`` lets layer 0 go.

    Raises:
        InputError: no objective, a setting that does not exist, or an uncut model that is no better than guessing.
    """
    objective = wanted_objective(context, "task_accuracy")
    chosen = choose("task_accuracy", context.settings, first_layer=FIRST_LAYER)
    context = with_first_layer(context, chosen["first_layer"])
    selection = greedy(context, objective, {"protect": sorted(context.protect)})
    plan = CutPlan(num_layers=context.num_layers, removed=selection.removed)
    return selection._replace(details={**selection.details, **selected_on(objective, plan)})


def wanted_objective(context: Context, criterion: str) -> Objective:
    """The context's objective.

    Raises:
        InputError: it has none.
    """
    if context.objective is None:
        raise InputError(f"{criterion} chooses layers by task scores; say which tasks: --objective arithmetic,copy.")
    return context.objective


def with_first_layer(context: Context, first_layer: str, start: Collection[int] = ()) -> Context:
    """The context with layer 0 protected if the rule says so, nothing else is protected, and ``start`` keeps it.

    Raises:
        InputError: too few candidates are left.
    """
    if context.protect or first_layer == "free" or 0 in start:
        return context
    return replace(context, protect=frozenset({0}))
