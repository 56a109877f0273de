"""Ask report items, and judge: plans in a fixed order, other models, and side effects of the checkpoint.

The original model, each plan and each other model answer into a run folder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, fixed_sequences
from layercut.evidence.intervals import ALPHA, holm
from layercut.evidence.two_runs import compare_two
from layercut.pruning.healing import healed_checkpoint
from layercut.pruning.outline import checks_for
from layercut.pruning.run import PruneRun
from layercut.pruning.speed import other_model, run_of
from layercut.runs.directory import METRICS, RunFolder
from layercut.runs.prune import (
    MODEL,
    Alternative,
    SideEffect,
    TaskKept,
    TaskScore,
    TestedDepth,
    least_kept,
    measured,
)
from layercut.runs.study import ARMS
from layercut.settings import UNCUT
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, run_cells, run_settings
from layercut.text import counted

LEVEL = 0.95  # confidence level of all tests together
_PLANS = "plans"
SIDE_EFFECTS = "side effects"  # name of the stage
FOLDER = "side_effects"  # folder of the run folders of both models, inside the folder of prune


class Arm(NamedTuple):
    """One model whose answers to report items are asked."""

    name: str
    plan: CutPlan  # plan on the original model
    healing: str | None
    stage: str = "original"  # for progress

    def describe(self) -> dict[str, Any]:
        """For metrics.json and study.json, as an arm of a study."""
        plan = self.name.removesuffix(f"+{self.healing}") if self.healing else self.name
        about = {"name": self.name, "plan": plan, "criterion": None if self.plan.is_uncut else self.plan.criterion}
        return {**about, "depth": len(self.plan.removed) or None, "healing": self.healing}


def removal_of(plan: CutPlan) -> dict[str, Any]:
    """Removed layers and channels of a plan, as results hold them."""
    mlp = plan.channels.share if plan.channels else 0.0
    return {"depth": len(plan.removed), "removed": plan.removed, "mlp": mlp}


class FixedSequence(NamedTuple):
    """Results of a fixed sequence so far."""

    tested: tuple[TestedDepth, ...]
    not_judged: tuple[tuple[str, str, str], ...]  # task, readout and why these report items decide nothing about it
    others: tuple[Alternative, ...] = ()  # other models that answered


class Other(NamedTuple):
    """Another model that answered the report items."""

    model: str  # as it was named
    run: str
    disk_bytes: int


def ask_arm(run: PruneRun, arm: Arm) -> None:
    """Have one model answer the report items; InputError: one of them chose the plan."""
    about, cells = arm.describe(), _goal_cells(run)
    if not arm.healing:
        _answer_cells(run, arm.name, arm.stage, run.model, arm.plan, cells, arm=about)
    else:
        checkpoint = healed_checkpoint(run, arm.plan, arm.healing)
        if not checkpoint.exists() and (run.folder / arm.name / METRICS).is_file():
            return  # of a finished run, which keeps no healings
        model = run.handle_of(checkpoint)
        healed = {"healing": {"method": arm.healing, "model_hash": model.metadata.model_hash}}
        plan = CutPlan(num_layers=model.num_layers)
        _answer_cells(run, arm.name, arm.stage, model, plan, cells, recorded=arm.plan, arm=about, more=healed)
        model.release()
    run.progress.end(arm.stage, note="all report items answered")


def ask_others(run: PruneRun) -> tuple[Other, ...]:
    """Have the other models that were named answer the report items of the original model."""
    others = []
    run.release()
    for name in run.settings.versus:
        model = other_model(run.model.settings, name)
        _answer_cells(run, run_of(name), name, model, model.plan(), _goal_cells(run))
        others.append(Other(name, run_of(name), model.disk_bytes(model.plan())))
        model.release()
        run.progress.end(name, note="all report items answered")
    return tuple(others)


def _goal_cells(run: PruneRun) -> list[Cell]:
    """The goal's tasks on as many report items as were decided."""
    number = run.notes["report_items"]
    return [Cell(task=part.task, readout=part.readout, limit=number[part.label]) for part in run.parts]


def _answer_cells(
    run: PruneRun,
    name: str,
    stage: str,
    model: ModelHandle,
    plan: CutPlan,
    cells: Sequence[Cell],
    *,
    recorded: CutPlan | None = None,
    arm: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Have a model answer items under a plan, into a run folder.

    Args:
        recorded: the plan to be written down, where that is another one.
        more: settings of this folder alone.
    """
    decoding, recorded = run.decoding, recorded or plan
    run.progress.begin(stage, "scoring report items")
    run.progress.cells = [cell.label for cell in cells]
    settings = {**run_settings(model, recorded, cells, decoding, decoding.seed), **(more or {})}
    about = None if arm is None else {**arm, "seed": decoding.seed}
    with RunFolder.begin(run.folder / name, settings, sandbox=run.isolation) as folder:
        run_cells(folder, model, plan, cells, decoding, run.progress, recorded=recorded, arm=about)


def confirm_arms(run: PruneRun, arms: Sequence[Arm], others: Sequence[Other]) -> FixedSequence:
    """Test depths in a fixed order on report items, up to the first that fails; then the other models."""
    keep, seed = run.settings.keep, run.seed
    sharing = [other for other in others if other.model in run.notes["shared"]]
    _note_arms(run, arms)
    evidence = None
    for number, arm in enumerate(arms, start=1):
        ask_arm(run, arm)
        evidence = judge(run.folder, arms[:number], sharing, keep, LEVEL, seed)
        last = evidence.tested[-1] if evidence.tested else None
        _show_verdict(run, arm.stage, last)
        if last is None or not last.passed:
            break
    assert evidence is not None, "the path has a depth at least"
    _note_arms(run, [arm for arm in arms if (run.folder / arm.name).exists()])
    if later := [other for other in others if other not in sharing]:
        more = judge(run.folder, (), later, keep, LEVEL, seed).others
        by_name = {other.model: other for other in (*evidence.others, *more)}
        evidence = evidence._replace(others=tuple(by_name[other.model] for other in others))
    for other in evidence.others:
        _show_verdict(run, other.model, other)
    return evidence


def _note_arms(run: PruneRun, arms: Sequence[Arm]) -> None:
    uncut = Arm(UNCUT, run.model.plan(), None)
    run.notes.put(ARMS, [{**arm.describe(), "seed": run.seed} for arm in (uncut, *arms)])


def _show_verdict(run: PruneRun, stage: str, judged: TestedDepth | Alternative | None) -> None:
    shown = "n/a"
    if judged is not None and (least := least_kept(judged.kept)) is not None:
        shown = f"{least.value:.0%} {judged.verdict}"
    run.progress.end(stage, shown=shown)


def deepest_passed(evidence: FixedSequence, arms: Sequence[Arm]) -> Arm | None:
    """The last arm that passed; None where none did."""
    names = [depth.name for depth in evidence.tested if depth.passed]
    return next((arm for arm in arms if names and arm.name == names[-1]), None)


def judge(
    folder: Path, arms: Sequence[Arm], others: Sequence[Other], keep: float, level: float, seed: int
) -> FixedSequence:
    """Test the arms in order of depth, and each other model, from their run folders.

    All share the error 1 - level: the arms are one path and each other model is one; a path on which all passed hands
    its part on (``fixed_sequences``).

    Args:
        arms: all that were asked, the shallowest first, without the original model.

    Raises:
        InputError: a run that is not finished.
    """
    uncut = RunFolder.open(folder / UNCUT)
    names = [*(arm.name for arm in arms), *(other.run for other in others)]
    runs = {name: RunFolder.open(folder / name) for name in names}
    rows = {
        name: [row for row in compare_runs(uncut, [run], seed=seed) if row.is_headline] for name, run in runs.items()
    }
    paths = {other.run: [DepthEvidence(1, other.run, tuple(rows[other.run]))] for other in others}
    if arms:
        steps = [DepthEvidence(turn, arm.name, tuple(rows[arm.name])) for turn, arm in enumerate(arms, start=1)]
        paths = {_PLANS: steps, **paths}
    sequences = fixed_sequences(paths, keep, level=level)
    by_name = {arm.name: arm for arm in arms}
    tested = []
    for depth in sequences[_PLANS].tested if arms else ():
        assert depth.verdict != "not tested", "only tested depths are judged here"
        arm = by_name[depth.plan]
        tested.append(
            TestedDepth(
                name=arm.name,
                **removal_of(arm.plan),
                healing=arm.healing,
                kept=_kept(depth, rows[arm.name]),
                passed=depth.passed,
                verdict=depth.verdict,
                items_needed=depth.items_needed,
            )
        )
    alternatives = []
    for other in others:
        judged = next(iter(sequences[other.run].tested), None)
        verdict = judged.verdict if judged else "undecided"
        assert verdict != "not tested", "each other model is tested"
        alternatives.append(
            Alternative(
                **other._asdict(),
                level=judged.level if judged else level,
                kept=_kept(judged, rows[other.run]) if judged else (),
                passed=verdict == "passed",
                verdict=verdict,
            )
        )
    left_out = next(iter(sequences.values())).not_judged
    return FixedSequence(
        tuple(tested), tuple((task.task, task.readout, task.reason) for task in left_out), tuple(alternatives)
    )


def _kept(judged: JudgedDepth, rows: Sequence[ComparisonRow]) -> tuple[TaskKept, ...]:
    by_task = {(task.task, task.readout): task for task in judged.tasks}
    kept = []
    for row in rows:
        task = by_task.get((row.task, row.readout))
        kept.append(
            TaskKept(
                task=row.task,
                readout=row.readout,
                uncut=measured(row.values.uncut),
                cut=measured(row.values.cut),
                kept=None if row.kept_share is None else measured(row.kept_share),
                bound=task.low if task else None,
                passed=task.verdict == "passed" if task else None,
            )
        )
    return tuple(kept)


def original_scores(folder: Path) -> tuple[TaskScore, ...]:
    """The original model's scores on report items."""
    scores: dict[tuple[str, str], TaskScore] = {}
    for row in RunFolder.open(folder / UNCUT).metrics()["rows"]:
        score = {name: row[name] for name in ("value", "low", "high", "n")}
        scores.setdefault(
            (row["task"], row["readout"]),
            TaskScore.model_validate({"task": row["task"], "readout": row["readout"], "score": score}),
        )
    if not scores:
        raise InputError(f"{folder / UNCUT} holds no scores; run the same command again.")
    return tuple(scores.values())


def check_side_effects(run: PruneRun, arm: Arm) -> tuple[SideEffect, ...]:
    """Have the original model and the checkpoint answer the suite ``side_effects``, and compare them check by check."""
    checks = checks_for(run.model, run.seed)
    if not checks:
        run.progress.end(SIDE_EFFECTS, note="not checked: the model can be asked none of them")
        return ()
    before, after = (f"{FOLDER}/{name}" for name in (UNCUT, arm.name))
    _answer_cells(run, before, SIDE_EFFECTS, run.model, run.model.plan(), checks)
    run.release()
    model = run.handle_of(run.folder / MODEL)
    _answer_cells(run, after, SIDE_EFFECTS, model, model.plan(), checks)
    model.release()
    uncut, cut = RunFolder.open(run.folder / before), RunFolder.open(run.folder / after)
    rows = [row for row in compare_two(uncut, cut, seed=run.seed) if row.is_headline]
    effects = tuple(
        SideEffect(
            task=row.task,
            uncut=measured(row.values.uncut),
            cut=measured(row.values.cut),
            difference=measured(row.values.difference),
            p=p,
            is_shown=p < ALPHA,
        )
        for row, p in zip(rows, holm([row.values.p_value for row in rows]), strict=True)
    )
    shown = sum(effect.is_shown for effect in effects)
    run.progress.end(SIDE_EFFECTS, note=f"{counted(len(effects), 'check')}, {shown} with a difference that counts")
    return effects
