"""Plans of a study's criteria: what decides a search, its first layers, and choices that need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from layercut.engine.handle import ModelHandle
from layercut.selection import criterion as criterion_of
from layercut.selection.base import Context
from layercut.selection.specs import parse_protected
from layercut.settings import GENERATED, DecodingSettings
from layercut.study.settings import CriterionSettings
from layercut.study.store import model_identity
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task


def first_layers(plan: CutPlan, depth: int) -> CutPlan:
    """The plan of the same search at a smaller ``depth``. Its selection items stay: all rounds use the same.

    >>> first_layers(CutPlan(num_layers=6, removed=(4, 2, 3)), 2).removed
    (4, 2)
    """
    if depth == len(plan.removed):
        return plan
    assert depth < len(plan.removed), "a search goes to the largest depth"
    scores = dict(plan.scores)
    if "rounds" in scores:
        scores["rounds"] = scores["rounds"][:depth]
        scores["value"] = scores["rounds"][-1]["value"]
    for name in ("perplexity", "race", "selected_scores", "close_answers", "answers"):  # of the deepest cut
        scores.pop(name, None)
    settings = {**plan.settings, "num_remove": depth, "first_of": len(plan.removed)}
    return replace(plan, removed=plan.removed[:depth], settings=settings, scores=scores)


def choose_by_position(model: ModelHandle, criterion: CriterionSettings, depth: int, seed: int) -> CutPlan:
    """The plan of a criterion that needs no model."""
    protect = parse_protected(criterion.protect, model.num_layers) if criterion.protect else None
    context = Context(num_layers=model.num_layers, num_remove=depth, seed=seed, protect=protect)
    settings: dict[str, Any] = {"num_remove": depth}
    if criterion.criterion == "random":
        settings["seed"] = seed
    if protect is not None:
        settings["protect"] = sorted(protect)
    return CutPlan(
        num_layers=model.num_layers,
        removed=criterion_of(criterion.criterion)(context).removed,
        criterion=criterion.criterion,
        model=model.settings.model,
        model_hash=model.metadata.model_hash,
        settings=settings,
    )


def search_identity(
    model: ModelHandle, criterion: CriterionSettings, depth: int, decoding: DecodingSettings, seed: int
) -> Mapping[str, Any]:
    """All settings that decide the choice. Files count by their content, a criterion of your own by its name."""
    tasks = [
        {**one.as_dict(), "data": None, **load_task(one.task, data=one.data, seed=seed).settings()}
        for one in criterion.objective
    ]
    text = criterion.calibration.as_dict()
    if criterion.calibration.source != GENERATED:
        file = Path(criterion.calibration.source)
        text["content"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
    return {
        **model_identity(model),
        "criterion": criterion.criterion,
        "depth": depth,
        "objective": tasks,
        "calibration": text,
        "protect": criterion.protect,
        "settings": dict(criterion.settings),
        "normalise": criterion.normalise,
        "race": criterion.race,
        "decoding": decoding.as_dict(),
        "seed": seed,
    }
