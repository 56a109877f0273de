"""The runs of a study, read and compared from its folder alone, grouped by criterion, healing, depth and seed; and how
deep they show that the model can be cut for a use.

The plans of one criterion, healed in one way, are a path, tested in order of depth: layercut.evidence.fixed_sequence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow, Finding, arm_of, compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, fixed_sequences, judge_depth
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.uses import Use
from layercut.runs.directory import RunFolder, check_folder, is_run_folder, runs_in
from layercut.runs.environment import shown_path
from layercut.runs.healing import CHECKPOINT
from layercut.runs.prune import RESULT, Alternative, PruneResult, TaskKept, TestedDepth
from layercut.runs.study import UNCUT, failures_in, variants_in_study

KEEP, CONFIDENCE = 0.9, 0.95
"""Target share in a study's report; `layercut report --keep` takes others. Probability that a recommended plan keeps
it."""


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


# How deep a cut is shown to keep what a use asks for


@dataclass(frozen=True, kw_only=True)
class JudgedPlan(JudgedDepth):
    """One plan, by all readouts of the use that give evidence."""

    arm: ComparedRun
    path: str  # name of the sequence of plans that it was tested with, in order of depth

    @property
    def low(self) -> float | None:
        """Kept at least by the readout that keeps the least; None without any bound."""
        lows = [task.low for task in self.tasks if task.low is not None]
        return min(lows) if lows and len(lows) == len(self.tasks) else None


class Advice(NamedTuple):
    """The answer for one use of one model, and all that it rests on."""

    use: Use
    keep: float
    seed: int
    uncut: ComparedRun
    plans: Sequence[JudgedPlan]  # deepest first

    @property
    def recommended(self) -> JudgedPlan | None:
        """The deepest plan that passed; of several, the one with the higher lower bound."""
        return next((plan for plan in self.plans if plan.verdict == "passed"), None)

    @property
    def best(self) -> JudgedPlan | None:
        """The tested plan that keeps the most, where none passed; one that more items may decide comes first."""
        failed = [plan for plan in self.plans if plan.tasks and plan.verdict in ("undecided", "shown to fail")]
        return max(
            failed,
            key=lambda plan: (plan.verdict == "undecided", min(task.kept for task in plan.tasks)),
            default=None,
        )

    @property
    def num_paths(self) -> int:
        """Number of sequences that share the error rate."""
        return len({plan.path for plan in self.plans})


def judge_plans(
    rows: Sequence[ComparisonRow],
    use: Use,
    *,
    keep: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Advice:
    """Judge plans by rows of compare_runs: whether each keeps ``keep`` of the score above chance on every readout.

    Only the main metric of a readout counts.

    Raises:
        InputError: no task that speaks of the use, or a share out of range.
    """
    main = [row for row in rows if row.is_headline and row.cut.is_cut]
    spoken = [row for row in main if use.speaks_of(row.task)]
    if not spoken:
        tasks = ", ".join(dict.fromkeys(row.task for row in main))
        raise InputError(
            f"no measured task covers {use.name}, only {tasks}. Run the study with one of {', '.join(use.tasks)}, or "
            "ask for another `use`."
        )
    # One plan without evidence is enough, or plans would be judged by different tasks.
    silent = {(row.task, row.readout) for row in spoken if not _decides(row, use)}
    usable = [row for row in spoken if (row.task, row.readout) not in silent]
    wanted = list(dict.fromkeys((row.task, row.readout) for row in usable))
    arms = {row.cut.name: row.cut for row in main}
    steps = {
        name: DepthEvidence(arm.turn, name, tuple(row for row in usable if row.cut.name == name))
        for name, arm in arms.items()
    }
    paths = _paths(list(arms.values()))
    measured = {path: [steps[name] for name in names if steps[name].rows] for path, names in paths.items()}
    results = fixed_sequences(
        {path: own for path, own in measured.items() if own}, keep, level=CONFIDENCE, num_resamples=num_resamples
    )
    tested = {depth.plan: depth for result in results.values() for depth in result.tested}
    plans, error = [], (1 - CONFIDENCE) / len(paths)
    for path, name in ((path, name) for path, names in paths.items() for name in names):
        depth = tested.get(name) or judge_depth(steps[name], wanted, keep, error, num_resamples)
        if name not in tested and steps[name].rows:  # behind the first that failed: bounds without a verdict
            shown_tasks = tuple(replace(task, verdict="not tested", items_needed=None) for task in depth.tasks)
            depth = replace(depth, verdict="not tested", tasks=shown_tasks, items_needed=None)
        plans.append(JudgedPlan(**vars(depth), arm=arms[name], path=path))
    plans.sort(key=lambda plan: (-plan.arm.turn, -(plan.low if plan.low is not None else -1e9), plan.arm.name))
    return Advice(use, keep, seed, main[0].uncut, plans)


def _paths(arms: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Names of plans that are tested one after the other, by name of the path: those whose names differ in the depth
    alone (``search-2``, ``search-4``), or else those of one criterion; healed in one way under one seed; the shallowest
    first, and two of one depth on two paths. No score decides, so the order is fixed before."""
    paths: dict[str, list[ComparedRun]] = {}
    for arm in sorted(arms, key=lambda arm: (arm.turn, arm.name)):
        plan = arm.plan or arm.name
        family = re.sub(rf"(?<!\d){arm.depth}(?!\d)", "N", plan)
        path = (arm.criterion or "explicit") if family == plan else family
        path += f"+{arm.healing}" if arm.healing else ""
        path += f", seed {arm.seed}" if arm.seed else ""
        if arm.turn in {other.turn for other in paths.get(path, [])}:
            path = arm.name
        paths.setdefault(path, []).append(arm)
    return {path: [arm.name for arm in own] for path, own in paths.items()}


def _decides(row: ComparisonRow, use: Use) -> bool:
    """True for a readout that counts, whose score has a chance level that the original model exceeds."""
    return use.counts(row.readout) and row.chance is not None and row.is_share and not row.uncut_is_at_chance
