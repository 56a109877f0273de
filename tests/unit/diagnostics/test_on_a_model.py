"""Timing, and chance, on a tiny model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from layercut.diagnostics import load_diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.shared import SharedEngine
from layercut.engine.timing import CheckpointTimer
from layercut.models.loading import LoadedModel
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

UNCUT, CUT = CutPlan(num_layers=NUM_LAYERS), CutPlan(num_layers=NUM_LAYERS, removed=(2, 3))


@cache
def loaded() -> LoadedModel:
    return tiny_loaded("llama")


def session(folder: Path, limit: int = 2) -> DiagnosticSession:
    engine = SharedEngine(loaded())
    arms = [
        SessionModel(name=name, source="uncut", plan=plan, engine=lambda: engine)
        for name, plan in (("uncut", UNCUT), ("cut", CUT))
    ]
    return DiagnosticSession(arms, lambda name, arm: Journal(folder / f"{name}.{arm}.jsonl"), limit=limit)


def test_timing_leaves_the_model_whole() -> None:
    found = CheckpointTimer(loaded(), CUT)(2, 8, 12, 0)
    assert min(found) > 0
    assert len(loaded().model.model.layers) == NUM_LAYERS


def test_chance_does_not_depend_on_the_number_of_items(tmp_path: Path) -> None:
    few, more = (load_diagnostic("arithmetic")(session(tmp_path / str(limit), limit=limit))["rows"] for limit in (2, 6))
    chances = [{row.metric: row.chance for row in rows if not row.group} for rows in (few, more)]
    assert chances[0] == chances[1] and chances[0]["written"] is not None and chances[0]["written"] < 0.1
