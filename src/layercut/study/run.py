"""Run a study: criteria x depths x healing arms x tasks x readouts x seeds, as one job that resumes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import StudyResults, study_results
from layercut.progress import Say
from layercut.progress.bars import RunProgress
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import Outline
from layercut.runs.records import data_frame
from layercut.runs.settings import CONFIG
from layercut.runs.study import ARMS, failures_in
from layercut.study.healer import is_healing_begun
from layercut.study.job import StudyJob, settings_but_tasks
from layercut.study.settings import StudySettings
from layercut.study.work import StudyWork
from layercut.tasks.cells import announce_isolation

if TYPE_CHECKING:
    from pandas import DataFrame


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
    kept = partial(_settings_to_keep, work.folder)
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


def _settings_to_keep(
    folder: Path, had: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a study must keep, as its folder has them and as they are wanted now.

    It may take new tasks, plans, criteria, depths, healing arms and seeds, and other settings for plans and healing
    arms of which no weights or answers are kept: one that failed for want of memory, say.
    """
    if "plans" not in had:  # the run of another verb
        return {**had}, {**wanted}
    before, now = settings_but_tasks(had, wanted)
    # ``last+seam-seed2`` has the run folders of the plan last and of the healing arm seam.
    begun = (file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    parts = {part for name in begun if "+" not in name or is_healing_begun(folder, name) for part in name.split("+")}
    parts |= {part.rsplit("-seed", 1)[0] for part in parts}
    for key in ("plans", "healing"):
        before[key] = {name: settings for name, settings in had.get(key, {}).items() if name in parts}
        now[key] = {name: settings for name, settings in wanted.get(key, {}).items() if name in before[key]}
    for key in ("criteria", "depths", "seeds"):
        before[key] = had.get(key, [])
        now[key] = [entry for entry in wanted.get(key, []) if entry in before[key]]
    return before, now
