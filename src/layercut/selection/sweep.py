"""A sensitivity sweep: each layer skipped alone, all tasks, against the original model on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.intervals import clusters_of
from layercut.evidence.paired import compare_paired
from layercut.evidence.sweep import Sweep, SweepRow
from layercut.progress import Say
from layercut.progress.bars import RunProgress
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import Outline
from layercut.runs.records import data_frame
from layercut.runs.trackers import log_numbers
from layercut.selection.answers import SearchAnswers
from layercut.selection.search_journal import SearchJournal
from layercut.selection.select import folder_settings, outline_of_steps, planned_answers
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.tasks.cells import Cell, announce_isolation, folder_name, make_task_cells
from layercut.tasks.selected_items import items_hash, merge_items, tell_shortfalls
from layercut.text import count_of, format_layers

if TYPE_CHECKING:
    from pandas import DataFrame


class Swept(NamedTuple):
    """The folder and the results of a sweep."""

    folder: Path
    sweep: Sweep

    def to_frame(self) -> DataFrame:
        return data_frame([row.to_dict() for row in self.sweep.rows])


@dataclass(frozen=True, kw_only=True)
class PlannedSweep:
    """A sweep that can be run."""

    folder: Path
    handle: ModelHandle
    layers: tuple[int, ...]  # the skipped ones
    cells: list[Cell]
    decoding: Decoding
    isolation: str | None  # of generated programs

    def outline(self) -> Outline:
        plans = len(self.layers) + 1  # each layer skipped alone, and the original model
        steps = [planned_answers(self.handle, cell, cell.samples, plans, f"{plans} plans") for cell in self.cells]
        return outline_of_steps(self.handle, steps, self.folder)

    def run(self, console: Console, say: Say) -> Swept:
        settings = folder_settings(self.handle.describe(), self.cells, self.decoding)
        items = merge_items(*({cell.task.name: [sample.id for sample in cell.samples]} for cell in self.cells))
        with RunFolder.begin(self.folder, settings, sandbox=self.isolation) as run:
            sweep = Sweep(
                model=self.handle.settings.model,
                model_hash=self.handle.metadata.model_hash,
                num_layers=self.handle.num_layers,
                items={task: items_hash(ids) for task, ids in items.items()},
                rows=tuple(self.measure_layers(run, console, say)),
            )
            sweep.save(run.path)
            if not run.is_finished:  # a sweep has no scores of one plan; a search may have left its own here
                run.write_metrics([])
            return Swept(run.path, sweep)

    def measure_layers(self, run: RunFolder, console: Console, say: Say) -> list[SweepRow]:
        """A row for each layer, task and readout, in order; only answers that the folder does not hold are asked."""
        cells, model, seed = self.cells, self.handle, self.decoding.seed
        uncut = CutPlan(num_layers=model.num_layers)
        cut = {layer: CutPlan(num_layers=model.num_layers, removed=(layer,)) for layer in self.layers}
        groups = {"uncut": [uncut], f"without one of {count_of(len(cut), 'layer')}": list(cut.values())}
        # A piece is one task under all plans of a group, which the engine is asked together: what they share runs once.
        pieces = [
            (f"Scoring {name}: {cell.label}", cell.work()._replace(num_items=len(plans) * len(cell.samples)))
            for name, plans in groups.items()
            for cell in cells
        ]
        progress = RunProgress(console, pieces, unit="answers")
        with SearchJournal(run) as journal, progress.running():
            answers = SearchAnswers(
                cells,
                [cell.samples for cell in cells],
                engine=lambda: model.engine,
                model_hash=model.metadata.model_hash,
                decoding=self.decoding,
                journal=journal,
            )

            def row_of(task: int, layer: int, plan: CutPlan) -> SweepRow:
                before, after = (answers.part(task, own, whole=True).records for own in (uncut, plan))
                return _row(cells[task], layer, before, after, seed)

            for number, plans in enumerate(groups.values()):
                for task in range(len(cells)):
                    piece = number * len(cells) + task
                    if all(answers.part(task, plan, whole=True).is_complete for plan in plans):
                        progress.skip(piece)
                        continue
                    with progress.piece(piece) as on_progress:
                        # Whole answers: a sweep counts how they ended.
                        answers.complete([task], plans, whole=True, progress=lambda _, *counts: on_progress(*counts))
                if plans != [uncut]:
                    continue
                # A task that will have no retention is reported as soon as it is known: the sweep is long.
                for row, cell in ((row_of(task, -1, uncut), cell) for task, cell in enumerate(cells)):
                    if row.kept_share is None:
                        why = f"{row.values.refused}; it will have no retention"
                        say(f"{cell.label}: {why}. Raise `limit`, or leave it out.")
            rows = [row_of(task, layer, plan) for task in range(len(cells)) for layer, plan in cut.items()]
        for row in rows:
            log_numbers({f"sweep/{row.task}.{row.readout}/{row.metric}": row.values.cut.value}, step=row.layer)
        return rows


def plan_sweep(
    model: ModelSettings,
    *,
    objective: Sequence[TaskSettings],
    layers: str | None = None,
    out: Path | None,
    seed: int,
    decoding: DecodingSettings,
    say: Say,
) -> PlannedSweep:
    """The sweep of a model, each layer skipped alone; ``layercut sweep``. ``layers`` are all of them if left out."""
    handle = ModelHandle(model)
    wanted = swept_layers(layers, handle.num_layers, model.model)
    cells = swept_cells(objective, seed)
    if (whole := handle.plan()).earlier:
        say(handle.introduce(whole))
    say(f"{model.model}: layers {format_layers(wanted)} of {handle.num_layers}, each skipped alone, and uncut")
    isolation = announce_isolation((cell.task for cell in cells), say)
    tell_shortfalls(((cell.task, "selection", cell.limit) for cell in cells), say)
    return PlannedSweep(
        folder=out or Path("runs", folder_name(f"{model.model}-sweep")),
        handle=handle,
        layers=wanted,
        cells=cells,
        decoding=Decoding(**decoding.as_dict(), seed=seed),
        isolation=isolation,
    )


def swept_layers(text: str | None, num_layers: int, model: str) -> tuple[int, ...]:
    """The layers that ``text`` names, ascending; all of them for None. Raises InputError: a layer that is not there."""
    if num_layers < 2:
        raise InputError(f"{model} has a single decoder layer, so nothing is left when it is skipped.")
    if text is None:
        return tuple(range(num_layers))
    layers = tuple(sorted(set(parse_layers(text))))
    if layers[-1] >= num_layers:
        raise InputError(
            f"layer {layers[-1]} is not in {model}, which has {num_layers} decoder layers (0-{num_layers - 1})."
        )
    return layers


def swept_cells(objective: Sequence[TaskSettings], seed: int) -> list[Cell]:
    """Every task and readout, on its selection items; of a task without ``readouts``, its first one, as in a search."""
    if not objective:
        raise InputError("a sweep needs at least one task, such as `objective` arithmetic,copy.")
    name, count = Counter(wanted.task for wanted in objective).most_common(1)[0]
    if count > 1:
        raise InputError(f"the objective names {name} more than once; name it once.")
    cells = [
        replace(cell, split="selection", num_samples=1)
        for wanted in objective
        for cell in make_task_cells([wanted], seed)[: None if wanted.readouts else 1]
    ]
    for cell in cells:
        if not cell.samples:
            raise InputError(f"{cell.task.name} has no selection items; leave it out of the objective.")
    return cells


def _row(
    cell: Cell, layer: int, uncut: Sequence[Mapping[str, Any]], cut: Sequence[Mapping[str, Any]], seed: int
) -> SweepRow:
    metric = next(iter(uncut[0]["metrics"]))
    before, after = ([float(record["metrics"][metric]) for record in records] for records in (uncut, cut))
    chance = cell.task.split_chance(cell.split, cell.readout).get(metric)
    return SweepRow(
        layer=layer,
        task=cell.task.name,
        version=cell.task.version,
        readout=cell.readout,
        metric=metric,
        chance=chance,
        limit=cell.limit,
        seed=seed,
        values=compare_paired(before, after, chance=chance, seed=seed, clusters=clusters_of(uncut)),
        outcomes=dict(Counter(record["outcome"] for record in cut)),
    )
