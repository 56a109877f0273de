"""Score one model, whole or under one plan, and write one run folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle, ServedModel
from layercut.engine.rows import check_longest
from layercut.progress.bars import Progressing
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.runs.frame import frame
from layercut.runs.settings import settings_in
from layercut.settings import DecodingSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, announce_isolation, make_cells, run_cells, run_settings
from layercut.tasks.reported import decided, tell_reported
from layercut.tasks.selected_items import used_items

if TYPE_CHECKING:
    from pandas import DataFrame

FLAGS = {
    "removed": "remove",
    "limit": "limit",
    "readout": "readouts",
    "task": "tasks",
    "num_samples": "samples",
}
"""Which flag of ``layercut eval`` stands for a setting whose name is not the flag's."""


class Evaluated(NamedTuple):
    """The run folder, and the content of metrics.json."""

    folder: Path
    metrics: dict[str, Any]

    def to_frame(self) -> DataFrame:
        """A line for each task, readout and metric."""
        return frame(self.metrics["rows"])


def evaluate_model(
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    *,
    tasks: Sequence[TaskSettings],
    out: Path,
    seed: int,
    decoding: DecodingSettings,
    allow_selection_items: bool = False,
    console: Console,
    say: Callable[[str], None],
) -> Evaluated:
    """Score a model under a plan on tasks; ``layercut eval``."""
    cells, isolation = _prepare(model, plan, tasks, out, seed, say)
    draw = Decoding(**decoding.as_dict(), seed=seed)
    progress = Progressing([(cell.label, cell.work()) for cell in cells], console, verb="Scoring")
    settings = run_settings(model, plan, cells, draw, seed)
    with RunFolder.begin(out, settings, flags=FLAGS, sandbox=isolation) as run, progress.running():
        run_cells(run, model, plan, cells, draw, progress, allow_selection_items=allow_selection_items)
        return Evaluated(run.path, run.metrics())


def evaluation_outline(
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    tasks: Sequence[TaskSettings],
    out: Path,
    seed: int,
    say: Callable[[str], None],
) -> Outline:
    """What ``evaluate_model`` would ask. Raises InputError for what it would refuse."""
    cells, _ = _prepare(model, plan, tasks, out, seed, say)
    if isinstance(model, ModelHandle):
        for cell in cells:
            check_longest(model, (cell.task.request(one, cell.readout) for one in cell.samples))
    steps = tuple(PlannedStep(cell.label, len(cell.samples)) for cell in cells)
    disk = ANSWER_BYTES * sum(step.items for step in steps)
    return Outline(steps=steps, disk_bytes=disk, memory_bytes=0, folder=out)


def _prepare(
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    tasks: Sequence[TaskSettings],
    out: Path,
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[Cell], str | None]:
    """The cells and the isolation of generated programs, and lines on both."""
    used = used_items([*model.earlier_plans, plan], model.healings)
    cells = make_cells(tasks, seed, split_of=decided(used, settings_in(out)))
    say(model.introduce(plan))
    isolation = announce_isolation((cell.task for cell in cells), say)
    tell_reported(cells, say)
    return cells, isolation


def slug(text: str) -> str:
    """A folder name made from any text."""
    name = re.sub(r"[^A-Za-z0-9.,_-]+", "-", text).strip("-.") or "run"
    return name if len(name) <= 150 else f"{name[:130]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
