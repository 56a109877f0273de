"""Greedy search: remove one more layer, then score all candidates again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layercut.errors import InputError
from layercut.runs.trackers import log_numbers
from layercut.selection.base import Context, Objective, Selection
from layercut.selection.racing import Standings
from layercut.surgery.plan import CutPlan

Propose = Callable[[Sequence[CutPlan]], Sequence[CutPlan]]
"""From the plans of a round to those of them that are scored, the most promising last."""


def remove_greedily(
    context: Context,
    objective: Objective,
    details: Mapping[str, Any] | None = None,
    propose: Propose = lambda plans: plans,
) -> Selection:
    """Remove, ``num_remove`` times, the layer whose removal leaves the best model by ``objective``; of equals the
    later.

    Every round scores all remaining candidates, or those that ``propose`` gives, without a tolerance; a value that is
    not finite is worse than any other. Details: ``uncut`` and ``value``, and ``rounds`` with ``candidates``, ``values``
    (None: not finite, or stopped by a race), the ``chosen`` one, ``ties`` and the runner-up; of a race also
    ``upper_bounds``, ``num_answered`` of ``num_items``, and in ``race`` how many ``answers`` were ``saved``.
    """
    (uncut,) = objective.values([CutPlan(num_layers=context.num_layers)])
    if not math.isfinite(uncut):
        raise InputError(f"the objective gives {uncut} for the original model, so there is nothing to compare with.")
    removed: tuple[int, ...] = ()
    rounds: list[dict[str, Any]] = []
    for number in range(context.num_remove):
        context.progress("rounds", number, context.num_remove)
        left = [layer for layer in context.candidates if layer not in removed]
        plans = propose([CutPlan(num_layers=context.num_layers, removed=(*removed, layer)) for layer in left])
        candidates = [plan.removed[-1] for plan in plans]
        outcome = _round(candidates, objective.round(plans))
        if outcome["value"] is None:
            raise InputError(
                f"round {number + 1}: no pruned model has a finite value; remove fewer, or load another dtype."
            )
        log_numbers(
            {f"search/{name}": outcome[name] for name in ("value", "chosen", "runner_up_value")}, step=number + 1
        )
        removed = (*removed, outcome["chosen"])
        rounds.append(outcome)
    context.progress("rounds", context.num_remove, context.num_remove)
    measured: dict[str, Any] = {"uncut": uncut, "value": rounds[-1]["value"], "rounds": rounds}
    if rounds[0].get("num_items"):
        answers = sum(sum(outcome["num_answered"]) for outcome in rounds)
        all_answers = sum(len(outcome["candidates"]) * outcome["num_items"] for outcome in rounds)
        measured["race"] = {"mode": "exact", "answers": answers, "saved": all_answers - answers}
    return Selection(removed, details={**(details or {}), **measured})


def place_of_highest(values: Sequence[float]) -> int:
    """Index of the highest value; the last of equals; values that are not finite come last.

    >>> place_of_highest([0.5, 0.7, 0.7, float("nan")])
    2
    """
    known = [value if math.isfinite(value) else -math.inf for value in values]
    return max(range(len(values)), key=lambda place: (known[place], place))


def as_json(value: float) -> float | None:
    """The value to write: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _round(candidates: Sequence[int], standings: Standings) -> dict[str, Any]:
    results = standings.candidates
    values = [-math.inf if result.value is None else result.value for result in results]
    best = place_of_highest(values)
    others = [place for place in range(len(values)) if place != best]
    second = max(
        others,
        key=lambda place: (results[place].upper_bound, results[place].num_answered, place),
        default=-1,
    )
    outcome = {
        "candidates": list(candidates),
        "values": [as_json(value) for value in values],
        "chosen": candidates[best],
        "value": as_json(values[best]),
        "ties": [candidates[place] for place in others if values[place] == values[best]],
        "runner_up": candidates[second] if others else None,
        "runner_up_value": as_json(results[second].upper_bound) if others else None,
    }
    if not standings.num_items:
        return outcome
    return outcome | {
        "upper_bounds": [as_json(result.upper_bound) for result in results],
        "num_answered": [result.num_answered for result in results],
        "num_items": standings.num_items,
        "runner_up_is_bound": bool(others) and results[second].value is None,
    }
