"""Cells: one task and readout under one plan, written to a run folder; each cell resumes by item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layercut.engine.base import Decoding, Engine
from layercut.engine.handle import ModelHandle, ServedModel
from layercut.errors import InputError
from layercut.progress import OnProgress
from layercut.progress.cost import Workload
from layercut.runs.directory import RunFolder
from layercut.sandbox.runner import describe
from layercut.settings import TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample, Split, Task, generates
from layercut.tasks.evaluate import Records, TaskResult, evaluate
from layercut.tasks.reported import FULL, ITEMS
from layercut.tasks.selected_items import check_report_items
from layercut.tasks.used_tokens import NOTE, find_used_tokens

if TYPE_CHECKING:
    from layercut.runs.records import MetricRow


class Pieces(Protocol):
    """Progress over numbered pieces of work."""

    def skip(self, index: int) -> None: ...

    def piece(self, index: int) -> AbstractContextManager[Callable[[int, int], None]]:
        """Work one piece: the block calls what it gets with (items done, items in all)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task and readout, ready to be run under any plan."""

    task: Task
    readout: Readout
    limit: int | None
    num_samples: int = 1  # answers to each item; 1 for a readout that generates nothing
    split: Split = "report"  # ``full`` where the whole test set is asked; see ``layercut.tasks.reported``

    @property
    def samples(self) -> list[Sample]:
        return self.task.samples(self.split, self.limit)

    def is_whole(self, run: Path) -> bool:
        """True if a run folder holds an answer to every item; files may have been deleted or shortened since."""
        try:
            records = RunFolder.open(run).records(self.task.name, self.readout)
        except InputError:
            return False
        return {sample.id for sample in self.samples} <= {record.get("id") for record in records}

    @property
    def label(self) -> str:
        return f"{self.task.name} ({self.readout})"

    def evaluate(
        self, engine: Engine, plan: CutPlan, decoding: Decoding, journal: Records, on_progress: OnProgress
    ) -> TaskResult:
        """Have a model answer what the journal lacks, and score all answers."""
        return evaluate(
            self.task,
            engine,
            plan,
            readout=self.readout,
            split=self.split,
            limit=self.limit,
            decoding=decoding,
            num_samples=self.num_samples,
            journal=journal,
            on_progress=on_progress,
        )

    def describe(self) -> dict[str, Any]:
        """Settings that decide the numbers, for a run's settings."""
        several = {} if self.num_samples == 1 else {"num_samples": self.num_samples}
        return {
            "task": self.task.name,
            "readout": self.readout,
            "limit": self.limit,
            **several,
            **self.task.settings(),
            **({ITEMS: FULL} if self.split == "full" else {}),
        }

    def work(self) -> Workload:
        """Its items, for the time left."""
        return Workload(kind=(self.task.name, self.readout), num_items=len(self.samples))


def make_cells(
    tasks: Sequence[TaskSettings],
    seed: int,
    limit: int | None = None,
    split_of: Callable[[Task], Split] = lambda task: "report",
) -> list[Cell]:
    """The cells of the tasks, in order.

    Args:
        limit: lowers every task's own.
        split_of: which items of a task are asked; see ``layercut.tasks.reported``.

    Raises:
        InputError: a task or readout that is not known, data that cannot be read, or data without report items.
    """
    cells: list[Cell] = []
    for wanted in tasks:
        task = load_task(wanted.task, data=wanted.data, seed=seed, max_new_tokens=wanted.max_new_tokens)
        split = split_of(task)
        if not task.samples(split, 1):
            raise InputError(
                f"{task.name} has no report items: about half of its items, by the hash of their ids, are kept for "
                "choosing layers, and here that is all of them. Give more rows."
            )
        twin = next((cell.task for cell in cells if cell.task.name == task.name), task)
        if getattr(twin, "path", None) != getattr(task, "path", None):
            raise InputError(
                f"{twin.path} and {task.path} have one name, and so would their answers; rename one."  # type: ignore[attr-defined]
            )
        for readout in wanted.readouts or task.readouts:
            task.check_readout(readout)
            limits = [number for number in (wanted.limit, limit) if number is not None]
            several = wanted.samples if generates(readout) else 1
            most = min(limits, default=None)
            cells.append(Cell(task=task, readout=readout, limit=most, num_samples=several, split=split))
    return cells


def announce_isolation(tasks: Iterable[Task], say: Callable[[str], None]) -> str | None:
    """The isolation of the tasks' programs, printed for users; None, and nothing said, where none are run.

    Raises:
        InputError: programs are to be run, and no sandbox works here.
    """
    if not any(task.runs_programs for task in tasks):
        return None
    isolation = describe()
    say(f"isolation of generated programs: {isolation}")
    return isolation


def run_settings(
    model: ModelHandle | ServedModel, plan: CutPlan, cells: Sequence[Cell], decoding: Decoding, seed: int
) -> Mapping[str, Any]:
    """Settings that decide the numbers of one run folder."""
    return {
        **model.describe(),
        **plan.gone,
        "tasks": [cell.describe() for cell in cells],
        "decoding": decoding.as_dict(),
        "seed": seed,
    }


def run_cells(
    folder: RunFolder,
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    cells: Sequence[Cell],
    decoding: Decoding,
    progress: Pieces,
    first: int = 0,
    allow_selection_items: bool = False,
    recorded: CutPlan | None = None,
    arm: Mapping[str, Any] | None = None,
) -> None:
    """Evaluate every cell under one plan into its run folder, and mark the folder finished.

    Args:
        first: number of this plan's first piece of work in ``progress``.
        allow_selection_items: report also on items that the plan was selected on; every such number is marked.
        recorded: the plan to be written down, where that is another one: of a healed model, the plan of its cut.
        arm: what this run is among others, for its metrics.

    Raises:
        InputError: a report item was a selection item of the plan, or of a plan that the checkpoint was cut by.
    """
    if folder.is_finished and all(cell.is_whole(folder.path) for cell in cells):
        for index in range(len(cells)):
            progress.skip(first + index)
        return
    written = model.recorded(recorded or plan)
    if written is not None:
        (recorded or plan).save(folder.path / "plan.json")
    shared = [_selection_items(model, plan, cell, allow_selection_items) for cell in cells]
    rows: list[MetricRow] = []
    for index, cell in enumerate(cells, start=first):
        with folder.journal(cell.task.name, cell.readout) as journal, progress.piece(index) as on_progress:
            outcome = cell.evaluate(model.engine, plan, decoding, journal, on_progress)
        rows.extend({**row, "selection_items": shared[index - first]} for row in outcome.metrics)
        if isinstance(model, ModelHandle) and plan.is_uncut:
            ids = find_used_tokens(model.reader.tokenizer, cell.task, cell.samples, cell.readout, outcome.records)
            folder.notes.put(NOTE + cell.label, {"tokenizer": model.tokenizer_hash, "ids": ids})
    folder.write_metrics(rows, plan=written, size=model.size(plan), arm=arm)


def _selection_items(model: ModelHandle | ServedModel, plan: CutPlan, cell: Cell, allow: bool) -> int:
    ids = [sample.id for sample in cell.samples]
    return max(check_report_items(made, cell.task.name, ids, allow=allow) for made in (*model.earlier_plans, plan))
