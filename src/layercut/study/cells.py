"""Running a study: one model, uncut and under each plan, on every task and readout; each a resumable cell.

    layercut run examples/quickstart.yaml

The study's folder holds one run folder for the uncut model and one for each plan. What is finished is never done again,
and a study whose cells are all finished does not load the model at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.models.sources import ModelSource, describe_source, resolve
from layercut.runs.directory import RunFolder
from layercut.selection.specs import plan_from_spec
from layercut.study.settings import UNCUT, ModelSettings, StudySettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Task
from layercut.tasks.evaluate import evaluate

if TYPE_CHECKING:
    from layercut.engine.base import Engine
    from layercut.models.loading import LoadedModel
    from layercut.study.progress import StudyProgress


class ModelHandle:
    """A model that is described at once and loaded on first use."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.source: ModelSource = resolve(settings.model, revision=settings.revision)
        facts = describe_source(self.source)
        self.num_layers: int = facts.num_layers
        self.model_hash: str = facts.model_hash

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in memory."""
        from layercut.models.loading import load_model

        wanted = asdict(self.settings)
        del wanted["batch_size"], wanted["model"]
        return load_model(self.settings.model, **wanted)

    @cached_property
    def engine(self) -> Engine:
        """An engine over it."""
        from layercut.engine.plain import PlainEngine

        return PlainEngine(self.loaded, batch_size=self.settings.batch_size)

    def plan(self, spec: str | None, seed: int) -> CutPlan:
        """A plan for this model; None is the uncut model."""
        facts = {"num_layers": self.num_layers, "model": self.settings.model, "model_hash": self.model_hash}
        return plan_from_spec(spec, seed=seed, **facts) if spec else CutPlan(**facts)  # type: ignore[arg-type]

    def describe(self) -> dict[str, Any]:
        """What decides the numbers, for a run's settings. The resolved commit stands for a branch or tag."""
        return asdict(self.settings) | {"revision": self.source.revision, "model_hash": self.model_hash}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task and readout, ready to be run under any plan."""

    task: Task
    readout: Readout
    limit: int | None

    @property
    def label(self) -> str:
        return f"{self.task.name} ({self.readout})"

    def describe(self) -> dict[str, Any]:
        return {"task": self.task.name, "readout": self.readout, "limit": self.limit, **self.task.settings()}


def make_cells(tasks: Sequence[TaskSettings], seed: int, limit: int | None = None) -> list[Cell]:
    """The cells of the tasks, in order; ``limit`` lowers every task's own."""
    cells = []
    for wanted in tasks:
        task = load_task(wanted.task, data=wanted.data, seed=seed)
        for readout in wanted.readouts or task.readouts:
            if readout not in task.readouts:
                raise InputError(f"{task.name} has no readout {readout!r}. It has: {', '.join(task.readouts)}.")
            own = [number for number in (wanted.limit, limit) if number is not None]
            cells.append(Cell(task=task, readout=readout, limit=min(own, default=None)))  # type: ignore[arg-type]
    return cells


def run_cells(
    folder: RunFolder,
    model: ModelHandle,
    plan: CutPlan,
    cells: Sequence[Cell],
    decoding: Decoding,
    progress: StudyProgress,
) -> None:
    """Evaluate every cell under one plan into one run folder, and mark it finished."""
    if folder.is_finished:
        for cell in cells:
            progress.skip_cell(plan, cell)
        return
    plan.save(folder.path / "plan.json")
    rows = []
    for cell in cells:
        with folder.journal(cell.task.name, cell.readout) as journal, progress.cell(plan, cell) as on_progress:
            outcome = evaluate(
                cell.task,
                model.engine,
                plan,
                readout=cell.readout,
                limit=cell.limit,
                decoding=decoding,
                journal=journal,
                on_progress=on_progress,
            )
        rows.extend(outcome.metrics)
    folder.write_metrics(rows, plan=plan.to_dict())


def run_settings(
    model: ModelHandle, plan: CutPlan, cells: Sequence[Cell], decoding: Decoding, seed: int
) -> Mapping[str, Any]:
    """What decides the numbers of one run folder."""
    return {
        "model": model.describe(),
        "removed": list(plan.removed),
        "tasks": [cell.describe() for cell in cells],
        "decoding": asdict(decoding),
        "seed": seed,
    }
