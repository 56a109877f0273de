"""The runs of a study, read and compared, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow, arm_of, compare_runs
from layercut.runs.directory import METRICS, RunFolder, check_folder, is_run, runs_in
from layercut.runs.settings import shown
from layercut.runs.study import DIAGNOSE, STEPS, SWEEP, UNCUT, arms_in, failures_in


class StudyRuns(NamedTuple):
    """The runs of a study."""

    uncut: RunFolder
    cuts: list[RunFolder]
    """In the order of the study, healed arms beside their cut; otherwise by number of layers removed."""


class StudyResults(NamedTuple):
    """The runs of a study with every comparison between them."""

    uncut: RunFolder
    cuts: list[RunFolder]
    rows: list[ComparisonRow]
    """Of compare_runs."""
    seed: int
    """Of the resampling."""
    failed: list[str]
    """What could not be measured, a line each."""


def study_runs(folder: Path) -> StudyRuns:
    """Find the runs of a study: the folders in it, ``uncut`` first. An arm of which everything failed is left out.

    Raises:
        InputError: no folder, no uncut run in it, no cut run, or one that is not finished.
    """
    folder = Path(folder)
    check_folder(folder)
    if not is_run(folder / UNCUT):
        raise InputError(
            f"{shown(folder)} is not the folder of a study: it holds no run called {UNCUT}. "
            "`layercut ls` lists your runs."
        )
    given_up = {name for failure in failures_in(folder) for name in failure.arms}
    plans = _plans(folder)
    others = {UNCUT, *(set(STEPS) - set(plans))}
    found = [RunFolder.open(path) for path in runs_in(folder) if path.name not in others]
    found = [run for run in found if run.is_finished or run.name not in given_up]
    if not found:
        raise InputError(f"{shown(folder)} holds no run of a pruned model, so there is nothing to compare yet.")

    uncut = RunFolder.open(folder / UNCUT)

    def place(run: RunFolder) -> tuple[int, int, str]:
        listed = plans.index(run.name) if run.name in plans else len(plans)
        return listed, arm_of(run, uncut).depth, run.name

    return StudyRuns(uncut, sorted(found, key=place))


def study_results(folder: Path, *, seed: int | None = None) -> StudyResults:
    """The runs of a study and what they come to, compared once for all who want to show it.

    Args:
        folder: of the study.
        seed: of the resampling; the ``seed`` in the settings of the uncut run by default.

    Raises:
        InputError: see study_runs and compare_runs.
    """
    runs = study_runs(folder)
    own = runs.uncut.settings.get("seed")
    used = seed if seed is not None else own if isinstance(own, int) else 0
    failed = [failure.describe() for failure in failures_in(folder)]
    return StudyResults(runs.uncut, runs.cuts, compare_runs(runs.uncut, runs.cuts, seed=used), used, failed)


def further_reports(folder: Path) -> list[Path]:
    """The Markdown reports of a study's finished sweep and diagnosis."""
    files = [Path(folder) / SWEEP / "sweep.md", Path(folder) / DIAGNOSE / "diagnose.md"]
    return [file for file in files if (file.parent / METRICS).is_file()]


def _plans(folder: Path) -> list[str]:
    if arms := arms_in(folder):
        return [arm["name"] for arm in arms]
    if not is_run(folder):
        return []
    plans = RunFolder.open(folder).settings.get("plans")
    return list(plans) if isinstance(plans, (dict, list)) else []
