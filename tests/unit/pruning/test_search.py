"""Which way of making a plan's model is tested."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercut.pruning.search import PathSearch, _best
from layercut.pruning.settings import PruneSettings
from layercut.pruning.state import PruneState
from layercut.runs.prune import Estimated, PathStep, TaskKept, Tried


def tried(healing: str | None, *kept: float) -> Tried:
    values = [Estimated(value=one, n=100) for one in kept]
    tasks = [
        TaskKept(task=f"task {place}", readout="short", uncut=one, cut=one, kept=one)
        for place, one in enumerate(values)
    ]
    return Tried(healing=healing, kept=tuple(tasks))


def test_the_way_whose_worst_task_keeps_most_is_tested() -> None:
    assert _best([tried(None, 0.90), tried("seam", 0.92)]).healing == "seam"
    assert _best([tried(None, 0.95, 0.80), tried("seam", 0.85, 0.84)]).healing == "seam"
    assert _best([tried(None, 0.90), tried("seam", 0.90)]).healing is None, "of equals the one that is not healed"


@pytest.mark.parametrize(("units", "is_asked"), [("layer", True), ("width", False), ("both", False)])
def test_the_time_is_asked_for_training_where_layers_alone_go(
    units: str, is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(PathSearch, "_training_items", lambda self, step, seconds: asked.append(step.name))
    step = PathStep(depth=1, removed=(2,), candidates=1, tried=(tried("seam", 0.85),), healing="seam")
    state = PruneState(tmp_path)
    state.put("path", [step.model_dump(mode="json")])
    settings = PruneSettings(use="copy", keep=0.8, time="2h")
    context: Any = SimpleNamespace(model=None, settings=settings, state=state, progress=None, say=None, units=units)
    PathSearch(context, SimpleNamespace(path=None))._train()  # type: ignore[arg-type]
    assert asked == ([step.name] if is_asked else [])
    assert state.get("trained", "never decided") == (None if is_asked else "never decided")
