"""Run a study: models x criteria x depths x healing arms x tasks x readouts x seeds, as one job that resumes.

    layercut run examples/quickstart.yaml

    runs/quickstart/  uncut/                  run folder of the original model
                      reverse-3/              of a cut; its checkpoint/ inside, and heal-<arm>/ for each healing of it
                      reverse-3+<arm>/        of the cut healed: its answers and metrics
                      searches/<criterion>/   what choosing the layers measured
                      sweep/, diagnose/       run folders of these steps, where the study has them
                      answers/<hash>/         the original model's answers, the training data of healing
                      notes.jsonl             what was decided, finished, and failed (traceback in failures/)
                      report.md               made from all the above

A study of several models holds such a folder for each. Finished work is never repeated, in this folder or in another
study of the same model beside it. A finished study does not load a model at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.means import form_means
from layercut.evidence.study import StudyResults, study_results
from layercut.healing.memory import training_disk
from layercut.progress import Say
from layercut.progress.bars import StudyProgress
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.frame import frame
from layercut.runs.settings import CONFIG
from layercut.runs.study import ARMS, failures_in
from layercut.study.healing_arms import is_begun
from layercut.study.job import StudyJob
from layercut.study.settings import StudySettings
from layercut.study.steps_beside import diagnosed, planned
from layercut.study.store import CellStore
from layercut.study.work import StudyWork
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, announce_isolation
from layercut.tasks.run import slug

if TYPE_CHECKING:
    from pandas import DataFrame


class StudyOutcome(NamedTuple):
    """The results of a study of one model, and their files."""

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
        return frame([row.to_dict() for row in self.rows])

    @property
    def rows(self) -> list[ComparisonRow]:
        """The comparisons."""
        return self.study.rows if self.study else []

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "rows": [row.to_dict() for row in self.rows],
            "means": [mean.to_dict() for mean in form_means(self.rows)],
            "paths": {name: str(path) for name, path in self.paths.items()},
            "failed": self.failed,
        }


def run_study(
    settings: StudySettings,
    *,
    out: Path | None = None,
    seed: int | None = None,
    limit: int | None = None,
    settings_file: str | None = None,
    console: Console,
    say: Say,
) -> Iterator[StudyOutcome]:
    """Run a study, or continue it; ``layercut run``. Yields an outcome for each model as soon as it has ended.

    A search, healing, cell or checkpoint that fails is recorded in the folder and does not stop the others; the same
    call tries it again.

    Args:
        settings: the study. ``out`` and ``seed`` replace its own, and ``limit`` lowers every task's number of items.
        settings_file: the file of the settings, for messages.

    Raises:
        InputError: a setting that cannot be used, or a run folder that holds another study.
    """
    settings = _with(settings, out, seed)
    folders = _folders(settings)
    with ExitStack() as held:
        if len(settings.models) > 1:
            whole = {"models": {str(folder.name): model.as_dict() for model, folder in folders}, "limit": limit}
            held.enter_context(RunFolder.begin(settings.out, whole, settings_file=settings_file))
        for model, folder in folders:
            try:
                work = _work(settings, model, folder, limit)
            except InputError as error:
                if len(folders) == 1:
                    raise
                yield StudyOutcome(model.model, folder, None, {}, [f"{model.model}: {error}"])
                continue
            outcome = _run_model(work, settings_file, console, say)
            work.model.release()
            yield outcome


def outline_study(
    settings: StudySettings, *, out: Path | None = None, seed: int | None = None, limit: int | None = None
) -> list[Outline]:
    """What ``run_study`` would still do, for each model; ``layercut run --dry-run``. Nothing is run or written."""
    settings = _with(settings, out, seed)
    for _, folder in _folders(settings):
        RunFolder.check(folder)
    return [_outline_model(_work(settings, model, folder, limit)) for model, folder in _folders(settings)]


def _run_model(work: StudyWork, settings_file: str | None, console: Console, say: Say) -> StudyOutcome:
    name = work.model.settings.model
    diagnosed(work)
    for cut, plan in work.plans.items():
        say(f"{cut}: {plan.describe()}")
    for arm in work.arms:
        if arm.healing and any(work.finished(arm, cell) is None for cell in work.cells):
            work.healers[arm.name].check()
    isolation = announce_isolation((cell.task for cell in work.cells), say)
    for line in work.shortfalls():
        say(line)
    kept = partial(_settings_to_keep, work.folder)
    with RunFolder.begin(work.folder, work.whole(), settings_file=settings_file, sandbox=isolation, common=kept) as run:
        run.notes.put(ARMS, [arm.describe() for arm in work.arms])
        progress = StudyProgress(work.pieces(), console)
        for kind, num_items, seconds in work.speeds():
            progress.learn(kind, num_items, seconds)
        job = StudyJob(
            work, run.notes, progress, console=console, say=say, settings_file=settings_file, isolation=isolation
        )
        job.run()
        failed = [failure.describe() for failure in failures_in(work.folder)]
        paths = {f"checkpoint of {arm}": path for arm, path in job.checkpoints.items()}
        found = None
        try:
            found = study_results(work.folder, seed=work.settings.seed)
        except InputError as error:
            if not failed:
                raise
            failed.append(f"no report can be made: {error}")
        return StudyOutcome(name, work.folder, found, paths, failed)


def _with(settings: StudySettings, out: Path | None, seed: int | None) -> StudySettings:
    return settings.replace(out=out or settings.out, seeds=settings.seeds if seed is None else (seed,))


def _folders(settings: StudySettings) -> list[tuple[Any, Path]]:
    """Each model with its folder: the study's own, or one for each of several."""
    if len(settings.models) == 1:
        return [(settings.models[0], settings.out)]
    names = [slug(model.model.rstrip("/").rsplit("/", 1)[-1]) for model in settings.models]
    if len(set(names)) < len(names):
        names = [slug(model.model) for model in settings.models]
    return [(model, settings.out / name) for model, name in zip(settings.models, names, strict=True)]


def _work(settings: StudySettings, model: Any, folder: Path, limit: int | None) -> StudyWork:
    store = CellStore(Path(os.path.realpath(settings.out)).parent)
    return StudyWork(settings, ModelHandle(model), folder=folder, store=store, limit=limit)


def _settings_to_keep(
    folder: Path, had: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a study must keep, as its folder has them and as they are wanted now.

    It may take new plans, criteria, depths, healing arms and seeds, and other settings for plans and healing arms of
    which no weights or answers are kept: one that failed for want of memory, say.
    """
    before, now = dict(had), dict(wanted)
    # ``last+seam-seed2`` has the run folders of the plan last and of the healing arm seam.
    begun = (file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    parts = {part for name in begun if "+" not in name or is_begun(folder, name) for part in name.split("+")}
    parts |= {part.rsplit("-seed", 1)[0] for part in parts}
    for key in ("plans", "healing"):
        before[key] = {name: one for name, one in had.get(key, {}).items() if name in parts}
        now[key] = {name: one for name, one in wanted.get(key, {}).items() if name in before[key]}
    for key in ("criteria", "depths", "seeds"):
        before[key] = had.get(key, [])
        now[key] = [one for one in wanted.get(key, []) if one in before[key]]
    return before, now


def _outline_model(work: StudyWork) -> Outline:
    """Count the work that is left of one model's part of a study."""
    left: dict[str, list[Cell]] = {arm.name: [] for arm in work.arms}
    for arm, cell in work.order:
        if not work.is_known(arm, cell):
            left[arm.name].append(cell)
    searches = [name for name in work.searches if any(arm.name not in work.plans for arm in work.arms_chosen_by(name))]
    trainings = [
        name for name in work.trainings if any(left[arm.name] for arm in work.arms if name in (arm.name, arm.training))
    ]
    steps = [PlannedStep(f"choosing layers by {name}", 1, "search") for name in searches]
    steps += [PlannedStep(f"healing {name}", 1, "training") for name in trainings]
    for arm in work.arms:
        done = len(work.cells) - len(left[arm.name])
        items = sum(len(cell.samples) for cell in left[arm.name])
        steps.append(PlannedStep(f"{arm.name}, {done} of {len(work.cells)} cells done", items))
    written = [num_bytes for arm in work.arms if (num_bytes := _checkpoint_bytes(work, arm.name))]
    counts = work.model.counts
    healers = [work.healers[name].arm.train for name in trainings if name in work.healers]
    # Counted on the original model, which is a little larger.
    training = max((training_disk(counts, train) for train in healers), default=0)
    return Outline(
        steps=tuple(steps),
        checkpoints=len(written) if work.settings.checkpoints else 0,
        disk_bytes=sum(written) + training,
        stays_bytes=sum(written) if work.settings.checkpoints else 0,
        memory_bytes=counts.in_memory(work.model.dtype) + round(work.model.settings.cache_gib * 2**30),
        folder=work.folder,
        more=(work.model.settings.model, *work.shortfalls(), *planned(work)),
    )


def _checkpoint_bytes(work: StudyWork, name: str) -> int:
    arm = next(one for one in work.arms if one.name == name)
    is_needed = work.settings.checkpoints or arm.healing or any(one.cut == name for one in work.arms)
    if arm.is_uncut or not is_needed:
        return 0
    plan = work.plans.get(arm.cut or name)
    if plan is None:  # not chosen yet: layers are of about one size
        last = range(work.model.num_layers - arm.depth, work.model.num_layers)
        plan = CutPlan(num_layers=work.model.num_layers, removed=tuple(last))
    return plan_cut(work.model.source.path, plan).bytes_after
