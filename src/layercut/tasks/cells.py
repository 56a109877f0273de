"""Cells: one task and readout under one plan, written to a run folder; each cell resumes by item."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding, Engine, split_by_kind
from layercut.engine.handle import ModelHandle, ServedModel
from layercut.engine.rows import check_longest, encode_text, generation_row, make_scoring
from layercut.errors import InputError
from layercut.progress import OnProgress
from layercut.progress.bars import RunProgress, Workload
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.runs.records import MetricRow, data_frame
from layercut.sandbox.runner import describe_isolation
from layercut.settings import DecodingSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample, Split, Task, is_generated
from layercut.tasks.evaluate import Records, TaskResult, evaluate_items
from layercut.tasks.selected_items import FULL, ITEMS, check_report_items, reported_split, tell_shortfalls, used_items

if TYPE_CHECKING:
    from pandas import DataFrame

USED_TOKENS = "tokens of "
"""Name of a note, before a task and readout: ``ids`` of all tokens of its prompts and answers, the SHA-256 of the
``tokenizer`` whose ids they are, and whether the answers are ``greedy`` ones whose own tokens are known, so that a
model with these tokens gives them again. A vocabulary can be trimmed to them (``vocab:RUN``)."""


class Evaluated(NamedTuple):
    """The run folder, and the content of metrics.json."""

    folder: Path
    metrics: dict[str, Any]

    def to_frame(self) -> DataFrame:
        """A line for each task, readout and metric."""
        return data_frame(self.metrics["rows"])


def evaluate_model(
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    *,
    tasks: Sequence[TaskSettings],
    out: Path,
    seed: int,
    decoding: DecodingSettings,
    console: Console,
    say: Callable[[str], None],
) -> Evaluated:
    """Score one model, whole or under one plan, and write one run folder; ``layercut eval``."""
    cells, isolation = _prepare(model, plan, tasks, seed, say)
    draw = Decoding(**decoding.as_dict(), seed=seed)
    progress = RunProgress(console, [(f"Scoring {cell.label}", cell.work()) for cell in cells])
    settings = run_settings(model, plan, cells, draw, seed)
    with RunFolder.begin(out, settings, sandbox=isolation) as run, progress.running():
        evaluate_cells(run, model, plan, cells, draw, progress)
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
    cells, _ = _prepare(model, plan, tasks, seed, say)
    if isinstance(model, ModelHandle):
        for cell in cells:
            check_longest(model, (cell.task.request(sample, cell.readout) for sample in cell.samples))
    steps = tuple(PlannedStep(cell.label, len(cell.samples)) for cell in cells)
    disk = ANSWER_BYTES * sum(step.items for step in steps)
    return Outline(steps=steps, disk_bytes=disk, memory_bytes=0, folder=out)


def _prepare(
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    tasks: Sequence[TaskSettings],
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[Cell], str | None]:
    """The cells and the isolation of generated programs, and lines on both."""
    used = used_items([*model.earlier_plans, plan], model.healings)
    cells = make_task_cells(tasks, seed, split_of=partial(reported_split, used=used))
    say(model.introduce(plan))
    isolation = announce_isolation((cell.task for cell in cells), say)
    tell_shortfalls(((cell.task, cell.split, cell.limit) for cell in cells), say)
    return cells, isolation


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task and readout, ready to be run under any plan."""

    task: Task
    readout: Readout
    limit: int | None
    num_samples: int = 1  # answers to each item; 1 for a readout that generates nothing
    split: Split = "report"  # ``full`` where the whole test set is asked; see ``layercut.tasks.selected_items``

    @property
    def samples(self) -> list[Sample]:
        return self.task.samples(self.split, self.limit)

    @property
    def label(self) -> str:
        return f"{self.task.name} ({self.readout})"

    def is_whole(self, run: Path) -> bool:
        """True if a run folder holds an answer to every item; files may have been deleted or shortened since."""
        try:
            records = RunFolder.open(run).records(self.task.name, self.readout)
        except InputError:
            return False
        return {sample.id for sample in self.samples} <= {record.get("id") for record in records}

    def evaluate(
        self, engine: Engine, plan: CutPlan, decoding: Decoding, journal: Records, on_progress: OnProgress
    ) -> TaskResult:
        """Have a model answer what the journal lacks, and score all answers."""
        return evaluate_items(
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
        return {
            "task": self.task.name,
            "readout": self.readout,
            "limit": self.limit,
            **({} if self.num_samples == 1 else {"num_samples": self.num_samples}),
            **self.task.settings(),
            **({ITEMS: FULL} if self.split == "full" else {}),
        }

    def work(self) -> Workload:
        """Its items, for the time left."""
        return Workload(kind=(self.task.name, self.readout), num_items=len(self.samples))


def make_task_cells(
    tasks: Sequence[TaskSettings],
    seed: int,
    limit: int | None = None,
    split_of: Callable[[Task], Split] = lambda task: "report",
) -> list[Cell]:
    """The cells of the tasks, in order; ``limit`` lowers every task's own.

    Raises InputError: a task or readout that is not known, data that cannot be read, or data without report items.
    """
    cells: list[Cell] = []
    for wanted in tasks:
        task = load_task(wanted.task, data=wanted.data, seed=seed, max_new_tokens=wanted.max_new_tokens)
        split = split_of(task)
        if not task.samples(split, 1):
            raise InputError(f"{task.name} has no report items: all are kept for choosing layers. Give more rows.")
        twin = next((cell.task for cell in cells if cell.task.name == task.name), task)
        if (path := getattr(twin, "path", None)) != (other := getattr(task, "path", None)):
            raise InputError(f"{path} and {other} have one name, and so would their answers; rename one.")
        lowest = min((number for number in (wanted.limit, limit) if number is not None), default=None)
        for readout in wanted.readouts or task.readouts:
            task.check_readout(readout)
            several = wanted.samples if is_generated(readout) else 1
            cells.append(Cell(task=task, readout=readout, limit=lowest, num_samples=several, split=split))
    return cells


def announce_isolation(tasks: Iterable[Task], say: Callable[[str], None]) -> str | None:
    """The isolation of the tasks' programs, printed for users; None where none are run. InputError without any."""
    if not any(task.runs_programs for task in tasks):
        return None
    isolation = describe_isolation()
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


def evaluate_cells(
    folder: RunFolder,
    model: ModelHandle | ServedModel,
    plan: CutPlan,
    cells: Sequence[Cell],
    decoding: Decoding,
    progress: RunProgress,
    recorded: CutPlan | None = None,
    arm: Mapping[str, Any] | None = None,
) -> None:
    """Evaluate every cell under one plan into its run folder, and mark the folder finished.

    ``recorded`` is the plan to be written down, where that is another one: of a healed model, the plan of its cut.

    Raises InputError: a report item was a selection item of the plan, or of a plan that the checkpoint was cut by.
    """
    if folder.is_finished and all(cell.is_whole(folder.path) for cell in cells):
        for index in range(len(cells)):
            progress.skip(index)
        return
    written = model.recorded(recorded or plan)
    if written is not None:
        (recorded or plan).save(folder.path / "plan.json")
    for cell in cells:
        check_report_items((*model.earlier_plans, plan), cell.task.name, [sample.id for sample in cell.samples])
    rows: list[MetricRow] = []
    for index, cell in enumerate(cells):
        with folder.journal(cell.task.name, cell.readout) as journal, progress.piece(index) as on_progress:
            outcome = cell.evaluate(model.engine, plan, decoding, journal, on_progress)
        rows.extend(outcome.metrics)
        if isinstance(model, ModelHandle) and plan.is_uncut:
            _note_used_tokens(folder, model, cell, outcome.records, decoding)
    folder.write_metrics(rows, plan=written, size=model.size(plan), arm=arm)


def _note_used_tokens(
    folder: RunFolder, model: ModelHandle, cell: Cell, records: Sequence[Mapping[str, Any]], decoding: Decoding
) -> None:
    """Note the tokens of whole prompts, chat template and worked examples included, and of what follows them."""
    reader = model.reader
    requests = [cell.task.request(sample, cell.readout) for sample in cell.samples]
    answered, scored = split_by_kind(requests)
    used = {token for request in answered for token in generation_row(reader, request).prompt}
    for request in scored:
        for row in make_scoring(reader, request).rows:
            used.update(row.tokens, *row.continuations)
    for record in records:
        answer = record.get("tokens") or encode_text(
            reader.tokenizer, record.get("completion", ""), add_special_tokens=False
        )
        used.update(answer)
    greedy = decoding.is_greedy and bool(answered) and all("tokens" in record for record in records)
    note = {"tokenizer": model.tokenizer_hash, "ids": sorted(used), "greedy": greedy}
    folder.notes.put(USED_TOKENS + cell.label, note)


def folder_name(text: str) -> str:
    """A folder name made from any text."""
    name = re.sub(r"[^A-Za-z0-9.,_-]+", "-", text).strip("-.") or "run"
    return name if len(name) <= 150 else f"{name[:130]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
