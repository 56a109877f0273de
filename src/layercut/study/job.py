"""One model's part of a study: every arm and cell in order. A failed step is recorded, and the others continue."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from layercut.errors import InputError, one_line
from layercut.progress import Say
from layercut.progress.bars import StudyProgress
from layercut.runs.directory import RunFolder
from layercut.runs.disk import BROKEN
from layercut.runs.healing import CHECKPOINT
from layercut.runs.notes import Notes
from layercut.runs.study import DIAGNOSE, SWEEP, TOOK, note_failure, note_success
from layercut.settings import UNCUT
from layercut.study.arms import StudyArm
from layercut.study.healing_arms import healing_folder, is_begun
from layercut.study.steps_beside import diagnose_step, sweep_step
from layercut.study.store import SEARCHES, Answered, Measured, Peer, answer_together, run_cell
from layercut.study.work import StudyWork
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.selected_items import check_report_items
from layercut.text.counting import counted

Result = TypeVar("Result")


@dataclass
class StudyJob:
    """The run of one model's part of a study."""

    work: StudyWork
    notes: Notes  # of the study's folder: what was chosen, what failed, and how long it took
    progress: StudyProgress  # over ``work.pieces()``; ``console`` shows that of a healing
    console: Console
    say: Say
    settings_file: str | None  # for messages
    isolation: str | None  # of generated programs, recorded in each run folder
    checkpoints: dict[str, Path] = field(default_factory=dict)  # checkpoints that stay on disk, by arm

    def __post_init__(self) -> None:
        self._held = ExitStack()
        self._runs: dict[str, RunFolder] = {}
        self._broken: set[str] = set()  # arms and searches that were given up
        self._index = {(arm.name, cell.label): index for index, (arm, cell) in enumerate(self.work.order)}
        self._asked: dict[int, Answered] = {}  # cells that were answered together with others
        self._measured: set[str] = set()  # healed arms whose cells are all finished

    def run(self) -> None:
        """Do all remaining work, and record failures; OSError if the disk is full or gone."""
        work = self.work
        for search in work.searches:
            if all(arm.name in work.plans for arm in work.arms_chosen_by(search)):
                work.choose(search, self.notes, say=self.say)  # copies the choice of another study
                self.progress.skip(work.index(search))
        self._count_finished()
        left = {arm.name: len(work.cells) for arm in work.arms}
        measured: dict[str, dict[str, Measured]] = {arm.name: {} for arm in work.arms}
        with self._held, self.progress.running():
            for index, (arm, cell) in enumerate(work.order):
                run = self._ready(arm)
                if run is None:
                    self.progress.skip(index)
                    self.progress.state(arm.name, "failed")
                    continue
                if (result := self._cell(index, run, arm, cell)) is not None:
                    measured[arm.name][cell.label] = result
                left[arm.name] -= 1
                if not left[arm.name]:
                    self._finish(run, arm, measured[arm.name])
        if work.settings.sweep is not None:
            self._beside(SWEEP, sweep_step)
        if work.settings.diagnose is not None:
            self._beside(DIAGNOSE, diagnose_step)

    def _count_finished(self) -> None:
        """Count finished work first, so that the time left is right from the start."""
        to_measure: set[str] = set()
        for index, (arm, cell) in enumerate(self.work.order):
            if self.work.finished(arm, cell) is None:
                to_measure.add(arm.name)
            else:
                self.progress.skip(index)
        needed = {arm.training or arm.name for arm in self.work.arms if arm.name in to_measure}
        for name in set(self.work.trainings) - needed:
            self.progress.skip(self.work.index(name))

    def _beside(self, name: str, step: Callable[..., Any]) -> None:
        """Do a step that is no arm; it loads its own models."""

        def do() -> bool:
            self.work.model.release()
            step(self.work, console=self.console, say=self.say)
            return True

        self._attempt(name, [], do)

    def _cell(self, index: int, run: RunFolder, arm: StudyArm, cell: Cell) -> Measured | None:
        step = f"{arm.name}: {cell.label}"
        if (known := self.work.finished(arm, cell)) is not None:
            self.progress.skip(index)
            note_success(self.notes, self.work.folder, step)
            return known

        def measure() -> Measured:
            plan = self.work.plan(arm)
            shared = self._selection_items(plan, cell)
            self._ask_together(arm, cell)
            with self.progress.cell(index) as on_progress:
                return run_cell(
                    run,
                    cell,
                    self.work.identity(arm, cell),
                    engine=lambda: self.work.healers[arm.name].engine if arm.healing else self.work.model.engine,
                    plan=CutPlan(num_layers=len(plan.kept)) if arm.healing else plan,
                    decoding=self.work.decoding(arm),
                    selection_items=shared,
                    store=self.work.store,
                    where=self.work.where,
                    on_progress=on_progress,
                    before=self._asked.get(index, Answered()),
                )

        measured = self._attempt(step, [arm.name], measure)
        for source, num_items in measured.reused if measured else ():
            self.say(f"{step}: {counted(num_items, 'answer')} reused from {source}")
        return measured

    def _ask_together(self, arm: StudyArm, cell: Cell) -> None:
        """Have this cut and others that are ready answer a cell in one call."""
        if arm.healing or arm.is_uncut or self._index[arm.name, cell.label] in self._asked:
            return
        peers: dict[str, Peer] = {}
        for other in self.work.arms:
            if other.healing or other.is_uncut or other.waits_for != arm.waits_for:
                continue
            run = self._ready(other)
            if run is None or self.work.is_known(other, cell):
                continue
            plan = self.work.plan(other)
            with suppress(InputError):  # its own step says so
                self._selection_items(plan, cell)
                place = self._index[other.name, cell.label]
                peers.setdefault(plan.key, Peer(place, run, plan, self.work.identity(other, cell)))
        if len(peers) < 2:
            return
        places = [peer.place for peer in peers.values()]
        self._asked |= dict.fromkeys(places, Answered())  # once is enough, whatever comes of it
        engine, store = self.work.model.engine, self.work.store
        if not engine.shares_work or cell.num_samples > 1:
            return
        with self.progress.cells(places) as report:
            try:
                decoding = self.work.decoding(arm)
                self._asked |= answer_together(cell, [*peers.values()], engine, decoding, store, report)
            except Exception as error:  # of one of them, say, which its own step will name
                self.say(f"{cell.label}: the cuts do not answer together, and each is asked alone: {one_line(error)}")

    def _ready(self, arm: StudyArm) -> RunFolder | None:
        """The arm's run folder, with its layers chosen and its weights healed; None where that failed."""
        if arm.name in self._runs:
            return self._runs[arm.name]
        if {arm.name, arm.cut, arm.start, arm.training} & self._broken or not self._has_plan(arm):
            return None
        step = f"{arm.name}: healing" if arm.healing else f"{arm.name}: begin"
        run = self._attempt(step, [arm.name], lambda: self._begin(arm))
        if run is None:
            self._broken.add(arm.name)
            return None
        self._runs[arm.name] = run
        return run

    def _begin(self, arm: StudyArm) -> RunFolder:
        path = self.work.folder / arm.name
        if arm.healing and not is_begun(self.work.folder, arm.name):
            for left in (path, healing_folder(self.work.folder, arm.name)):
                shutil.rmtree(left, ignore_errors=True)  # it may have failed under other settings
        run = self._held.enter_context(
            RunFolder.begin(path, self.work.run_settings(arm), settings_file=self.settings_file, sandbox=self.isolation)
        )
        self.work.plan(arm).save(run.path / "plan.json")
        if arm.healing and not all(self.work.is_known(arm, cell) for cell in self.work.cells):
            (self._keep_mark if arm.mark else self._heal)(arm)
        elif arm.name in self.work.trainings:
            self.progress.skip(self.work.index(arm.name))
        return run

    def _has_plan(self, arm: StudyArm) -> bool:
        name = arm.cut or arm.name
        if name in self.work.plans:
            return True
        search = next(one.search for one in self.work.arms if one.name == name)
        if search in self._broken:
            return False
        index, arms = self.work.index(search), self.work.arms_chosen_by(search)
        is_new = not (self.work.folder / SEARCHES / search).exists()
        began = time.monotonic()
        self.progress.state(name, "searching", search)

        def choose() -> bool:
            with self.progress.step(index):
                self.work.choose(search, self.notes, self.progress.searching, self.say)
            return True

        step = f"choosing layers by {search}"
        if not self._attempt(step, [arm.name for arm in arms], choose):
            self._broken.add(search)
            self.progress.skip(index)
            return False
        if is_new:
            self.notes.put(TOOK + self.work.search_kind(search), round(time.monotonic() - began, 1))
        for chosen in arms:
            self.say(f"{chosen.name}: {self.work.plan(chosen).describe()}")
        return True

    def _heal(self, arm: StudyArm) -> None:
        healer = self.work.healers[arm.name]
        begun_with = self._healed(arm.start) if arm.start else None  # None: the original model is trained
        if not arm.start and arm.cut != UNCUT:
            begun_with = self._checkpoint(arm.cut)
        self.work.model.release()
        self.progress.state(arm.name, "healing")
        is_new, began = not healer.folder.exists(), time.monotonic()
        with self.progress.step(self.work.index(arm.name)):
            healed = healer.heal(begun_with, console=self.console, say=self.say)
        if is_new:
            self.notes.put(TOOK + self.work.healing_kind(arm.name), round(time.monotonic() - began, 1))
        for line in healed.lines():
            self.say(f"{arm.name}: {line}")

    def _healed(self, name: str) -> Path:
        """The checkpoint of a healed arm, healed if it does not exist."""
        healer = self.work.healers[name]
        if not healer.checkpoint.exists():
            self._heal(next(one for one in self.work.arms if one.name == name))
        return healer.checkpoint

    def _keep_mark(self, arm: StudyArm) -> None:
        """Have the checkpoint of a mark, by the training that writes it."""
        self._healed(arm.training)
        if not self.work.healers[arm.name].checkpoint.exists():
            raise InputError(
                f"{arm.training} ended before it had learned from {int(arm.mark):,} answer tokens; give it more "
                "prompts or epochs, or leave that mark out."
            )

    def _checkpoint(self, name: str) -> Path:
        """The pruned checkpoint of an arm, written if it does not exist."""
        target = self.work.folder / name / CHECKPOINT
        if not target.exists():
            plan = self.work.plans[name]
            model = self.work.model
            done = cut_model(
                model.source, plan, target, uncut=lambda: model.loaded, say=lambda text: self.say(f"{name}: {text}")
            )
            self.say(f"{name}: {done.verified}")
        return target

    def _finish(self, run: RunFolder, arm: StudyArm, measured: Mapping[str, Measured]) -> None:
        """Write the arm's metrics, and its checkpoint if one is wanted."""
        work, plan = self.work, self.work.plan(arm)
        rows = [row for cell in work.cells if cell.label in measured for row in measured[cell.label].rows]
        whole = len(measured) == len(work.cells)
        if rows and not (run.is_finished and run.metrics()["rows"] == rows):
            sources = {name: [list(source) for source in cell.reused] for name, cell in measured.items() if cell.reused}
            about = {**arm.describe(), "reused": sources}
            if arm.healing:
                about["healed"] = work.healers[arm.name].metadata()
            run.write_metrics(rows, plan=plan.to_dict(), size=work.model.size(plan), arm=about)
        if work.settings.checkpoints and not plan.is_uncut and not arm.healing:
            written = self._attempt(f"{arm.name}: checkpoint", [arm.name], lambda: self._checkpoint(arm.name))
            whole = whole and written is not None
            if written is not None:
                self.checkpoints[arm.name] = written
        if arm.healing:
            self._let_go(arm, whole)
        self.progress.state(arm.name, "finished" if whole else "failed")

    def _let_go(self, arm: StudyArm, whole: bool) -> None:
        """Free the healed model's memory, and the disk where no checkpoints are wanted."""
        healer = self.work.healers[arm.name]
        healer.release()
        if self.work.settings.checkpoints:
            if healer.checkpoint.exists():
                self.checkpoints[arm.name] = healer.checkpoint
        elif whole:
            self._measured.add(arm.name)
            for name in self.work.trainings:
                if name in self._measured and self._is_free(name):
                    shutil.rmtree(self.work.healers[name].folder, ignore_errors=True)
            if self._is_free(arm.cut):
                shutil.rmtree(self.work.folder / arm.cut / CHECKPOINT, ignore_errors=True)

    def _is_free(self, name: str) -> bool:
        """True if no arm needs this one's checkpoint any more: each is healed, at a mark measured, or was given up."""
        users = [one for one in self.work.arms if name in (one.cut, one.start, one.training)]
        return all(one.name in self._broken | (self._measured if one.mark else self._runs.keys()) for one in users)

    def _selection_items(self, plan: CutPlan, cell: Cell) -> int:
        ids = [sample.id for sample in cell.samples]
        plans = (*self.work.model.earlier_plans, plan)
        return max(check_report_items(made, cell.task.name, ids) for made in plans)

    def _attempt(self, step: str, arms: Sequence[str], action: Callable[[], Result]) -> Result | None:
        """Do one step; record its failure and continue."""
        try:
            result = action()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in BROKEN:
                raise
            self.say(note_failure(self.notes, self.work.folder, step, arms, error).describe())
            return None
        note_success(self.notes, self.work.folder, step)
        return result
