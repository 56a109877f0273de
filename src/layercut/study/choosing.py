"""Choose the plans of a study's criteria: one search at the largest depth where smaller depths are nested in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layercut.engine.handle import ModelHandle
from layercut.progress import Progress, Say
from layercut.runs.notes import Notes
from layercut.runs.settings import settings_hash
from layercut.selection import criterion as criterion_of
from layercut.selection.base import Context, SearchSettings
from layercut.selection.select import SelectionRequest, select_layers
from layercut.selection.specs import LayerSpec, parse_protected
from layercut.settings import GENERATED, DecodingSettings
from layercut.study.settings import CriterionSettings
from layercut.study.store import CHOSEN, SEARCHES, CellStore, chosen_in, model_identity
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task


def choose_plans(
    model: ModelHandle,
    name: str,
    criterion: CriterionSettings,
    depths: Sequence[int],
    *,
    folder: Path,
    notes: Notes | None,
    store: CellStore,
    decoding: DecodingSettings,
    seed: int,
    progress: Progress,
    say: Say,
) -> dict[int, CutPlan]:
    """A plan for each depth.

    Where a deeper cut of the criterion contains the shallower one, there is one search, and the shallower plans are its
    first layers. Others (contiguous runs, your own function) are searched for each depth. A search that this study, in
    ``folder``, or another one in ``store`` has made is not repeated.

    Without ``notes`` of the folder nothing is measured or written, and there is no plan at all where a search is
    missing. The model is loaded only for measurements. Raises InputError as ``select_layers``.
    """
    if not criterion.row.needs_model:
        return {depth: _by_position(model, criterion, depth, seed) for depth in depths}
    searched = [max(depths)] if criterion.is_nested else sorted(depths)
    plans = {}
    for depth in searched:
        key = settings_hash(search_identity(model, criterion, depth, decoding, seed))
        plan = chosen_in(folder, key)
        if plan is None and (elsewhere := store.plan(key)) is not None:
            plan, source = elsewhere
            if notes is not None:
                say(f"{criterion.name}-{depth}: layers as chosen in {source}")
                notes.put(CHOSEN + key, plan.to_dict())
        if plan is None:
            if notes is None:
                return {}
            request = SelectionRequest(
                remove=LayerSpec.parse(f"{depth} layers"),
                criterion=criterion.criterion,
                tasks=criterion.objective,
                calibration=criterion.calibration,
                protect=criterion.protect,
                settings=criterion.settings,
                search=SearchSettings(normalise=criterion.normalise, race=criterion.race),
                decoding=decoding,
                seed=seed,
            )
            plan = select_layers(model, request, out=folder / SEARCHES / name, progress=progress, say=say).plan
            notes.put(CHOSEN + key, plan.to_dict())
        plans[depth] = plan
    if criterion.is_nested:
        return {depth: first_layers(plans[searched[0]], depth) for depth in depths}
    return plans


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


def _by_position(model: ModelHandle, criterion: CriterionSettings, depth: int, seed: int) -> CutPlan:
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
        text["content"] = _content(criterion.calibration.source)
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


def _content(source: str) -> str | None:
    """Hash of a calibration file; None without one on this disk."""
    path = Path(source)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
