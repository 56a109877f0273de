"""Run a study: criteria x depths x healing arms x tasks x readouts x seeds, every variant and cell in order.

One job that resumes. A failed step is recorded, and does not stop the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rich.console import Console

from layercut.errors import InputError, one_line
from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import StudyResults, study_results
from layercut.progress import Say
from layercut.progress.bars import RunProgress
from layercut.runs.directory import RunFolder
from layercut.runs.disk import BROKEN
from layercut.runs.dry_run import Outline
from layercut.runs.healing import CHECKPOINT
from layercut.runs.records import MetricRow, Notes, data_frame
from layercut.runs.study import ARMS, UNCUT, failures_in, note_failure, note_success
from layercut.study.settings import StudySettings
from layercut.study.variants import CELL, StudyVariant, healing_folder, is_healing_begun
from layercut.study.work import StudyWork, settings_but_tasks, study_settings_to_keep
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, announce_isolation
from layercut.tasks.evaluate import Questions, ask_under_plans

if TYPE_CHECKING:
    from pandas import DataFrame

Result = TypeVar("Result")


class StudyOutcome(NamedTuple):
    """The results of a study, and their files."""

    model: str
    folder: Path
    study: StudyResults | None
    """The runs and their comparisons; None where there is nothing to compare."""
    paths: dict[str, Path]
    """The checkpoints by name, and the reports once they are written."""
    failed: list[str]
    """The failures, a line each; the same command tries them again."""

    def to_frame(self) -> DataFrame:
        """A line for each comparison."""
        return data_frame([row.to_dict() for row in self.rows])

    @property
    def rows(self) -> list[ComparisonRow]:
        """The comparisons."""
        return self.study.rows if self.study else []

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "rows": [row.to_dict() for row in self.rows],
            "paths": {name: str(path) for name, path in self.paths.items()},
            "failed": self.failed,
        }


def run_study(settings: StudySettings, *, limit: int | None = None, console: Console, say: Say) -> StudyOutcome:
    """Run a study, or continue it; ``layercut run``.

    A search, healing, cell or checkpoint that fails is recorded in the folder and does not stop the others; the same
    call tries it again.

    Args:
        limit: lowers every task's number of items.

    Raises:
        InputError: a setting that cannot be used, or a run folder that holds another study.
    """
    work = StudyWork(settings, limit)
    for cut, plan in work.plans.items():
        say(f"{cut}: {plan.describe()}")
    for variant in work.variants:
        if variant.healing and any(work.finished(variant, cell) is None for cell in work.cells):
            work.healers[variant.name].check()
    isolation = announce_isolation((cell.task for cell in work.cells), say)
    for line in work.shortfalls():
        say(line)
    kept = partial(study_settings_to_keep, work.folder)
    with RunFolder.begin(work.folder, work.whole(), sandbox=isolation, common=kept) as run:
        run.notes.put(ARMS, [variant.describe() for variant in work.variants])
        job = StudyJob(work, run.notes, RunProgress(console, [*work.pieces.values()]), console, say, isolation)
        job.run()
        work.model.release()
        failed = [failure.describe() for failure in failures_in(work.folder)]
        paths = {f"checkpoint of {name}": path for name, path in job.checkpoints.items()}
        results = None
        try:
            results = study_results(work.folder, seed=settings.seed)
        except InputError as error:
            if not failed:
                raise
            failed.append(f"no report can be made: {error}")
        return StudyOutcome(settings.model.model, work.folder, results, paths, failed)


def outline_study(settings: StudySettings, *, limit: int | None = None) -> Outline:
    """What ``run_study`` would still do; ``layercut run --dry-run``. Nothing is run or written."""
    RunFolder.check(settings.out)
    return StudyWork(settings, limit).outline()


@dataclass
class StudyJob:
    """The run of a study."""

    work: StudyWork
    notes: Notes  # of the study's folder: what was chosen and what failed
    progress: RunProgress  # over ``work.pieces``; ``console`` shows that of a healing
    console: Console
    say: Say
    isolation: str | None  # of generated programs, recorded in each run folder
    checkpoints: dict[str, Path] = field(default_factory=dict)  # checkpoints that stay on disk, by variant

    def __post_init__(self) -> None:
        self._held = ExitStack()
        self._runs: dict[str, RunFolder] = {}
        self._broken: set[str] = set()  # variants and searches that were given up
        self._together: set[int] = set()  # cells that were answered with others

    def run(self) -> None:
        """Do all remaining work, and record failures; OSError if the disk is full or gone."""
        work = self.work
        # What is finished counts before the first step, so that the time left is right from the start.
        unfinished = {index for index, piece in enumerate(work.order) if work.finished(*piece) is None}
        needed = {work.order[index][0].name for index in unfinished}
        needed |= {search for search, cuts in work.searches.items() if cuts[0].name not in work.plans}
        for (name, cell_label), index in work.index.items():
            if (index not in unfinished) if cell_label else (name not in needed):
                self.progress.skip(index)
        left = {variant.name: len(work.cells) for variant in work.variants}
        measured: dict[str, dict[str, list[MetricRow]]] = {variant.name: {} for variant in work.variants}
        with self._held, self.progress.running():
            for index, (variant, cell) in enumerate(work.order):
                run = self._ready(variant)
                if run is None:
                    self.progress.skip(index)
                    continue
                if (result := self._measure(index, run, variant, cell)) is not None:
                    measured[variant.name][cell.label] = result
                left[variant.name] -= 1
                if not left[variant.name]:
                    self._finish(run, variant, measured[variant.name])

    def _attempt(self, step: str, variants: Sequence[str], action: Callable[[], Result]) -> Result | None:
        """Do one step; record its failure and continue."""
        try:
            result = action()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in BROKEN:
                raise
            self.say(note_failure(self.notes, self.work.folder, step, variants, error).describe())
            return None
        note_success(self.notes, self.work.folder, step)
        return result

    # Cells

    def _measure(self, index: int, run: RunFolder, variant: StudyVariant, cell: Cell) -> list[MetricRow] | None:
        work, step = self.work, f"{variant.name}: {cell.label}"
        if (known := work.finished(variant, cell)) is not None:
            self.progress.skip(index)
            note_success(self.notes, work.folder, step)
            return known

        return self._attempt(step, [variant.name], lambda: self._score(index, run, variant, cell))

    def _score(self, index: int, run: RunFolder, variant: StudyVariant, cell: Cell) -> list[MetricRow]:
        """Finish a cell: missing items are asked."""
        work, plan = self.work, self.work.plan(variant)
        work.check_items(plan, cell)
        if not variant.healing and not variant.is_uncut:
            self._answer_together(index, variant, cell)
        with self.progress.piece(index) as on_progress, run.journal(cell.task.name, cell.readout) as journal:
            engine: Any = None  # without missing items, so a finished study loads no model
            if len(journal.records) < len(cell.samples):
                engine = work.healers[variant.name].engine if variant.healing else work.model.engine
            # A healed checkpoint has the layers that stay.
            plan = CutPlan(num_layers=len(plan.kept)) if variant.healing else plan
            rows = cell.evaluate(engine, plan, work.decoding(variant), journal, on_progress).metrics
        run.notes.put(CELL + cell.label, {"limit": cell.limit, "split": cell.split, "rows": rows})
        return rows

    def _answer_together(self, index: int, first: StudyVariant, cell: Cell) -> None:
        """Have this cut and others that are ready answer in one call what they lack."""
        work = self.work
        if index in self._together:
            return
        peers: dict[str, StudyVariant] = {}  # by plan
        for cut in work.cuts:
            if cut.is_uncut or cut.waits_for != first.waits_for or self._ready(cut) is None or work.is_known(cut, cell):
                continue
            with suppress(InputError):  # its own step says so
                work.check_items(work.plan(cut), cell)
                peers.setdefault(work.plan(cut).key, cut)
        if len(peers) < 2:
            return
        places = {key: work.index[cut.name, cell.label] for key, cut in peers.items()}
        self._together |= {*places.values()}  # once is enough, whatever comes of it
        engine = work.model.engine
        if not engine.shares_work or cell.num_samples > 1:
            return
        with self.progress.pieces([*places.values()]) as report:
            try:
                with ExitStack() as held:
                    runs = [self._runs[cut.name] for cut in peers.values()]
                    journals = [held.enter_context(run.journal(cell.task.name, cell.readout)) for run in runs]
                    questions = Questions(
                        cell.task,
                        cell.samples,
                        {cell.readout: journals},
                        lambda plan, _, fresh: report(places[plan.key], len(fresh)),
                    )
                    plans = [work.plan(cut) for cut in peers.values()]
                    ask_under_plans(engine, plans, [questions], decoding=work.decoding(first), early=False)
            except Exception as error:  # of one of them, say, which its own step will name
                self.say(f"{cell.label}: the cuts do not answer together, and each is asked alone: {one_line(error)}")

    # Plans, checkpoints and healing

    def _ready(self, variant: StudyVariant) -> RunFolder | None:
        """The run folder, with its layers chosen and its weights healed; None where that failed."""
        if variant.name in self._runs:
            return self._runs[variant.name]
        if {variant.name, variant.cut} & self._broken or not self._has_plan(variant):
            return None
        step = f"{variant.name}: healing" if variant.healing else f"{variant.name}: begin"
        run = self._attempt(step, [variant.name], lambda: self._begin(variant))
        if run is None:
            self._broken.add(variant.name)
        else:
            self._runs[variant.name] = run
        return run

    def _has_plan(self, variant: StudyVariant) -> bool:
        work = self.work
        if variant.plan_name in work.plans:
            return True
        search = next(cut.search for cut in work.cuts if cut.name == variant.plan_name)
        if search in self._broken:
            return False

        def choose() -> bool:
            with self.progress.piece(work.index[search, ""]):
                work.choose(search, self.notes, self.progress, self.say)
            return True

        cuts = work.searches[search]
        if not self._attempt(f"choosing layers by {search}", [cut.name for cut in cuts], choose):
            self._broken.add(search)
            self.progress.skip(work.index[search, ""])
            return False
        for cut in cuts:
            self.say(f"{cut.name}: {work.plan(cut).describe()}")
        return True

    def _begin(self, variant: StudyVariant) -> RunFolder:
        work, name = self.work, variant.name
        path = work.folder / name
        if variant.healing and not is_healing_begun(work.folder, name):
            for folder in (path, healing_folder(work.folder, name)):
                shutil.rmtree(folder, ignore_errors=True)  # it may have failed under other settings
        run = self._held.enter_context(
            RunFolder.begin(path, work.run_settings(variant), sandbox=self.isolation, common=settings_but_tasks)
        )
        work.plan(variant).save(run.path / "plan.json")
        if variant.healing and not all(work.is_known(variant, cell) for cell in work.cells):
            cut = None if variant.cut == UNCUT else self._cut_checkpoint(variant.cut)  # None: the original model
            work.model.release()
            with self.progress.piece(work.index[name, ""]):
                healed = work.healers[name].heal(cut, console=self.console, say=self.say)
            for line in healed.lines():
                self.say(f"{name}: {line}")
        elif variant.healing:
            self.progress.skip(work.index[name, ""])
        return run

    def _cut_checkpoint(self, name: str) -> Path:
        """The pruned checkpoint of a cut, written if it does not exist."""
        target, model = self.work.folder / name / CHECKPOINT, self.work.model
        if not target.exists():
            done = cut_model(
                model.source,
                self.work.plans[name],
                target,
                uncut=lambda: model.loaded,
                say=lambda text: self.say(f"{name}: {text}"),
            )
            self.say(f"{name}: {done.verified}")
        return target

    # The end of a variant

    def _finish(self, run: RunFolder, variant: StudyVariant, measured: Mapping[str, Sequence[MetricRow]]) -> None:
        """Write the variant's metrics, and its checkpoint if one is wanted; free memory and disk of a healed one."""
        work, plan, name = self.work, self.work.plan(variant), variant.name
        rows = [row for cell in work.cells if cell.label in measured for row in measured[cell.label]]
        is_whole, keeps = len(measured) == len(work.cells), work.settings.checkpoints
        if rows and not (run.is_finished and run.metrics()["rows"] == rows):
            about = variant.describe()
            if variant.healing:
                about["healed"] = work.healers[name].last_entry()
            run.write_metrics(rows, plan=plan.to_dict(), size=work.model.size(plan), arm=about)
        if variant.healing:
            healer = work.healers[name]
            healer.release()
            if keeps and healer.checkpoint.exists():
                self.checkpoints[name] = healer.checkpoint
            elif not keeps and is_whole:
                shutil.rmtree(healer.folder, ignore_errors=True)
                arms = {other.name for other in work.variants if other.cut == variant.cut}
                if arms <= self._broken | self._runs.keys():  # none needs the cut any more
                    shutil.rmtree(work.folder / variant.cut / CHECKPOINT, ignore_errors=True)
        elif keeps and not plan.is_uncut:
            written = self._attempt(f"{name}: checkpoint", [name], lambda: self._cut_checkpoint(name))
            if written is not None:
                self.checkpoints[name] = written
