"""The runs of a study, read and compared from its folder alone, and grouped by criterion, healing, depth and seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow, Finding, arm_of, compare_runs
from layercut.runs.directory import RunFolder, check_folder, is_run_folder, runs_in
from layercut.runs.environment import shown_path
from layercut.runs.healing import CHECKPOINT
from layercut.runs.prune import RESULT, Alternative, PruneResult, TaskKept, TestedDepth
from layercut.runs.study import UNCUT, failures_in, variants_in_study


class StudyResults(NamedTuple):
    """The runs of a study with every comparison between them."""

    uncut: RunFolder
    cuts: list[RunFolder]
    rows: list[ComparisonRow]  # rows of compare_runs
    seed: int  # random seed of the resampling
    failed: list[str]  # steps that failed, a line each


def find_study_runs(folder: Path) -> tuple[RunFolder, list[RunFolder]]:
    """The original model's run of a study, and those of its cuts in its order; without arms of which all failed."""
    folder = Path(folder)
    check_folder(folder)
    if not is_run_folder(folder / UNCUT):
        raise InputError(
            f"{shown_path(folder)} is not the folder of a study: it holds no run called {UNCUT}. "
            "`layercut ls` lists your runs."
        )
    given_up = {name for failure in failures_in(folder) for name in failure.arms}
    plans = [arm["name"] for arm in variants_in_study(folder)]
    runs = [RunFolder.open(path) for path in runs_in(folder) if path.name != UNCUT]
    runs = [run for run in runs if run.is_finished or run.name not in given_up]
    if not runs:
        raise InputError(f"{shown_path(folder)} holds no run of a pruned model, so there is nothing to compare yet.")

    uncut = RunFolder.open(folder / UNCUT)

    def place(run: RunFolder) -> tuple[int, int, str]:
        listed = plans.index(run.name) if run.name in plans else len(plans)
        return listed, arm_of(run, uncut).depth, run.name

    return uncut, sorted(runs, key=place)


def study_results(folder: Path, *, seed: int | None = None) -> StudyResults:
    """The runs of a study, compared once for all who want to show it; ``seed`` is that of the uncut run by default."""
    uncut, cuts = find_study_runs(folder)
    own = uncut.settings.get("seed")
    used = seed if seed is not None else own if isinstance(own, int) else 0
    failed = [failure.describe() for failure in failures_in(folder)]
    rows = compare_runs(uncut, cuts, seed=used)
    if (result := prune_result(folder)) is not None:
        rows = judged_rows(rows, result)
    return StudyResults(uncut, cuts, rows, used, failed)


def prune_result(folder: Path) -> PruneResult | None:
    """The result of prune, where the folder holds one."""
    return PruneResult.load(folder) if (Path(folder) / RESULT).is_file() else None


def judged_rows(rows: Sequence[ComparisonRow], result: PruneResult) -> list[ComparisonRow]:
    """The rows, those that prune tested with its verdict and bound."""
    tested = {(plan.name, kept.task, kept.readout): (plan, kept) for plan in result.tested for kept in plan.kept}
    judged = []
    for row in rows:
        key = (row.cut.name, row.task, row.readout)
        if row.is_headline and key in tested:
            plan, kept = tested[key]
            row = replace(row, judged=task_verdict(plan, kept, result.goal.keep), bound=kept.bound)
        judged.append(row)
    return judged


def task_verdict(plan: TestedDepth | Alternative, kept: TaskKept, keep: float) -> Finding:
    """The verdict of prune's rule on one task of a plan; one that is shown to fail may do so by one of its tasks."""
    if kept.passed:
        return "passed"
    is_less = kept.kept is not None and kept.kept.high is not None and kept.kept.high < keep
    return "shown to fail" if plan.verdict == "shown to fail" and is_less else "undecided"


class Place(NamedTuple):
    """The group of a run among the runs of its study."""

    series: str  # name of the line: criterion that chose the layers, of lists given by hand the plan's name without its
    # depth, and how it was healed
    depth: float  # layers removed; of plans of which some remove MLP channels, the share of the parameters in percent
    part: str  # runs of one part are joined by a line: one seed each, and one run at each depth


def places_of_runs(runs: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> dict[str, Place]:
    """The place of each cut run, by its name; ``rows`` compare them with the original model.

    Criterion, healing and seed stand in a run's metrics under ``arm``, or else in its plan and settings.
    """
    by_run = {row.cut.name: row for row in rows}
    by_size = are_thinner(rows)
    by_stage = {}
    for run in runs:
        about, row = run.metrics().get("arm") or {}, by_run[run.name]
        criterion = str(about.get("criterion") or row.cut.criterion)
        if criterion in ("", "explicit"):
            name = str(about.get("plan") or run.name)
            criterion = re.sub(r"[-_ ]*\d+$", "", name) or name
        depth: float = row.cut.turn if by_size else row.cut.depth
        if by_size and row.cut.num_parameters and row.uncut.num_parameters:
            depth = round(100 * (1 - row.cut.num_parameters / row.uncut.num_parameters), 1)
        series = f"{criterion}, healed: {row.cut.healing}" if row.cut.healing else criterion
        seed = about.get("seed", run.settings.get("seed", 0))
        by_stage[run.name] = Place(series, depth, f"{series}, seed {seed}")
    crowds = Counter((place.part, place.depth) for place in by_stage.values())
    crowded = {part for (part, _), count in crowds.items() if count > 1}
    return {
        name: place._replace(part=f"{place.part}, {name}") if place.part in crowded else place
        for name, place in by_stage.items()
    }


def are_thinner(rows: Sequence[ComparisonRow]) -> bool:
    """True if some of the plans remove MLP channels, so that a number of layers does not say how much is gone."""
    return any(row.cut.mlp for row in rows)


def kept_checkpoint(folder: Path, arm: ComparedRun) -> Path | None:
    """The checkpoint of a plan of a study, of a healed one in CUT/heal-ARM/checkpoint; None if it is not there."""
    if arm.checkpoint:
        return Path(arm.checkpoint)
    cut = arm.plan or arm.name
    healed = arm.name.removeprefix(f"{cut}+") if arm.is_healing_arm else ""
    place = (folder / cut / f"heal-{healed}" if healed else folder / arm.name) / CHECKPOINT
    return place if place.is_dir() else None
