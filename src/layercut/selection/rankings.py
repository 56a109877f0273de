"""Layer scores of criteria, read from their plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.evidence.sweep import Ranking
from layercut.runs.environment import shown
from layercut.selection.specs import plan_for_model
from layercut.surgery.plan import CutPlan, origin_of
from layercut.tasks.selected_items import selection_items


def read_rankings(
    paths: Sequence[Path],
    *,
    model: str,
    model_hash: str,
    num_layers: int,
    asked: Mapping[str, frozenset[str]],
    from_another_model: bool = False,
) -> list[Ranking]:
    """The rankings of some plan.json files, named after their criteria.

    Args:
        paths: of the files.
        model: name of the model, for messages.
        model_hash: of the model; a plan for other weights is refused unless it is allowed.
        num_layers: its decoder layers.
        from_another_model: allow a plan for other weights, with a note.
        asked: ids of the sweep's items, per task; a plan that was chosen on some of them gets a note.

    Raises:
        InputError: a file that is no plan, a plan for another model, or one without a score for each layer.
    """
    plans = [CutPlan.load(path) for path in paths]
    rankings: list[Ranking] = []
    for path, plan in zip(paths, plans, strict=True):
        if plan.num_layers != num_layers:
            raise InputError(
                f"{shown(path)} was made for a model of {plan.num_layers} decoder layers, but {model} has {num_layers}."
            )
        plan = plan_for_model(plan, model, model_hash, where=shown(path), from_another_model=from_another_model)
        importance = _importance(plan.scores)
        if not importance:
            raise InputError(
                f"{shown(path)} holds no score for each layer (criterion {plan.criterion}), so there is nothing to "
                "compare. Give a plan of a criterion that scores layers, such as block_influence or task_accuracy."
            )
        alone = [other.criterion for other in plans].count(plan.criterion) == 1
        name = plan.criterion if alone else f"{plan.criterion} ({path.parent.name}/{path.name})"
        if any(ranking.name == name for ranking in rankings):
            raise InputError(f"`compare` names {shown(path)} more than once, or two files of its name; name each once.")
        rankings.append(Ranking(name=name, importance=importance, note=_note(plan, asked, str(path))))
    return rankings


def _importance(scores: Mapping[str, Any]) -> dict[int, float]:
    """Score per layer, higher means keep: the importance, or minus the values of a search's first round.

    Layers without a finite score are skipped.
    """
    given = scores.get("importance")
    if isinstance(given, Mapping) and given:
        return _finite(given)
    rounds = scores.get("rounds")
    first = rounds[0] if isinstance(rounds, list) and rounds and isinstance(rounds[0], Mapping) else {}
    candidates, values = first.get("candidates"), first.get("values")
    if isinstance(candidates, list) and isinstance(values, list) and len(candidates) == len(values):
        found = _finite(dict(zip(candidates, values, strict=True)))
        return {layer: -value for layer, value in found.items()}
    return {}


def _finite(values: Mapping[Any, Any]) -> dict[int, float]:
    return {
        int(layer): float(value)
        for layer, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _note(plan: CutPlan, asked: Mapping[str, frozenset[str]], where: str) -> str:
    chosen = selection_items(plan.scores, where)
    origin = origin_of({"chosen_on": plan.chosen_on})
    both = [task for task, ids in asked.items() if ids & chosen.get(task, frozenset())]
    if not both:
        return origin
    note = f"chosen on items of {', '.join(both)} that this sweep also uses, so some agreement is expected"
    return f"{note}; {origin}" if origin else note
