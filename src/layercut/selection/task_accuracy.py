"""Iterative search by task scores: each round removes the layer with the smallest loss of task score."""

from __future__ import annotations

from layercut.selection.base import Context, Selection, choose, wanted_objective
from layercut.selection.greedy import greedy
from layercut.selection.objective import selected_on
from layercut.selection.protect import with_default_protection
from layercut.surgery.plan import CutPlan


def task_accuracy(context: Context) -> Selection:
    """Remove, one by one, the layer without which the task scores are best.

    Each round scores every remaining candidate on the selection items of all objective tasks, divides by the original
    model's score, takes the mean over tasks and removes the best; of equals the later layer. The "iterative" criterion
    of arXiv:2602.01997, which samples at temperature 0.9; here decoding is greedy by default.

    Layer 0 is protected, as in the paper, unless protected layers are given (``--protect``; ``none`` makes all
    candidates). There are no settings.

    Raises:
        InputError: no objective, a setting, or an original model that is no better than guessing.
    """
    objective = wanted_objective(context, "task_accuracy")
    choose("task_accuracy", context.settings)
    context = with_default_protection(context, "task_accuracy")
    selection = greedy(context, objective, {"protect": sorted(context.protected)})
    plan = CutPlan(num_layers=context.num_layers, removed=selection.removed)
    return selection._replace(details={**selection.details, **selected_on(objective, plan)})
