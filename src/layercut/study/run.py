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
from collections.abc import Iterator
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
from layercut.progress import Say
from layercut.progress.bars import StudyProgress
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import Outline
from layercut.runs.frame import frame
from layercut.runs.study import ARMS, failures_in
from layercut.study.growth import common
from layercut.study.job import StudyJob
from layercut.study.outline import study_outline
from layercut.study.settings import StudySettings
from layercut.study.steps_beside import diagnosed
from layercut.study.store import CellStore
from layercut.study.work import StudyWork
from layercut.tasks.cells import announce_isolation
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
    return [study_outline(_work(settings, model, folder, limit)) for model, folder in _folders(settings)]


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
    kept = partial(common, work.folder)
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
