"""Ask report items, and judge: plans in a fixed order, other models, and side effects of the checkpoint.

The original model, each plan and each other model answer into a run folder of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, fixed_sequences
from layercut.evidence.intervals import ALPHA, adjust_by_holm
from layercut.evidence.two_runs import compare_two
from layercut.pruning.budget import checks_for
from layercut.pruning.run import PruneRun, healed_checkpoint, removal_of
from layercut.pruning.speed import other_model, run_of
from layercut.runs.directory import METRICS, RunFolder
from layercut.runs.prune import (
    MODEL,
    Alternative,
    SetAside,
    SideEffect,
    TaskKept,
    TestedDepth,
    as_estimated,
    least_kept,
)
from layercut.runs.study import ARMS
from layercut.settings import UNCUT
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, evaluate_cells, run_settings
from layercut.text import count_of

LEVEL = 0.95  # confidence level of all tests together
_PLANS = "plans"
SIDE_EFFECTS = "side effects"  # name of the stage
FOLDER = "side_effects"  # folder of the run folders of both models, inside the folder of prune


class Arm(NamedTuple):
    """One model whose answers to report items are asked."""

    name: str
    plan: CutPlan  # plan on the original model
    healing: str | None = None
    stage: str = "original"  # for progress

    def describe(self, seed: int) -> dict[str, Any]:
        """For metrics.json and study.json, as an arm of a study."""
        return {
            "name": self.name,
            "plan": self.name.removesuffix(f"+{self.healing}"),
            "criterion": None if self.plan.is_uncut else self.plan.criterion,
            "depth": len(self.plan.removed) or None,
            "healing": self.healing,
            "seed": seed,
        }


class FixedSequence(NamedTuple):
    """Results of a fixed sequence so far."""

    tested: tuple[TestedDepth, ...] = ()
    not_judged: tuple[SetAside, ...] = ()  # tasks whose report items decide nothing
    others: tuple[Alternative, ...] = ()  # other models that answered


def ask_arm(run: PruneRun, arm: Arm) -> None:
    """Have one model answer the report items; InputError: one of them chose the plan."""
    model = run.model
    if arm.healing:
        checkpoint = healed_checkpoint(run, arm.plan)
        if not checkpoint.exists() and (run.folder / arm.name / METRICS).is_file():
            return  # of a finished run, which keeps no healings
        model = run.handle_of(checkpoint)
    _answer_cells(run, arm.name, arm.stage, model, arm=arm)
    if arm.healing:
        model.release()
    run.progress.end(arm.stage, note="all report items answered")


def ask_others(run: PruneRun) -> None:
    """Have the other models that were named answer the report items of the original model."""
    run.release()
    for name in run.settings.versus:
        model = other_model(run.model.settings, name)
        _answer_cells(run, run_of(name), name, model)
        model.release()
        run.progress.end(name, note="all report items answered")


def _answer_cells(
    run: PruneRun,
    name: str,
    stage: str,
    model: ModelHandle,
    cells: Sequence[Cell] = (),
    arm: Arm | None = None,
) -> None:
    """Have a model answer ``cells``, else the report items, into a run folder: under the plan of ``arm``, which a
    healed model has in itself.
    """
    cells = cells or [
        Cell(task=part.task, readout=part.readout, limit=run.notes["report_items"][part.label]) for part in run.parts
    ]
    plan = recorded = arm.plan if arm else model.plan()
    healed = {}
    if arm and arm.healing:
        plan = CutPlan(num_layers=model.num_layers)
        healed = {"healing": {"method": arm.healing, "model_hash": model.metadata.model_hash}}
    run.progress.begin(stage, "scoring report items", [(cell.label, cell.work()) for cell in cells])
    settings = {**run_settings(model, recorded, cells, run.decoding, run.seed), **healed}
    about = arm.describe(run.seed) if arm else None
    with RunFolder.begin(run.folder / name, settings, sandbox=run.isolation) as folder:
        evaluate_cells(folder, model, plan, cells, run.decoding, run.progress, recorded=recorded, arm=about)


def confirm_arms(run: PruneRun, arms: Sequence[Arm]) -> FixedSequence:
    """Test plans in a fixed order on report items, up to the first that fails; then the other models."""
    others = run.settings.versus
    sharing, later = ([name for name in others if (name in run.notes["shared"]) is shares] for shares in (True, False))
    _note_arms(run, arms)
    evidence = FixedSequence()
    for number, arm in enumerate(arms, start=1):
        ask_arm(run, arm)
        evidence = judge_arms(run, arms[:number], sharing)
        last = evidence.tested[-1] if evidence.tested else None
        _show_verdict(run, arm.stage, last)
        if last is None or not last.passed:
            break
    _note_arms(run, [arm for arm in arms if (run.folder / arm.name).exists()])
    alternatives = evidence.others + (judge_arms(run, (), later).others if later else ())
    evidence = evidence._replace(others=tuple(sorted(alternatives, key=lambda other: others.index(other.model))))
    for alternative in evidence.others:
        _show_verdict(run, alternative.model, alternative)
    return evidence


def _note_arms(run: PruneRun, arms: Sequence[Arm]) -> None:
    run.notes.put(ARMS, [arm.describe(run.seed) for arm in (Arm(UNCUT, run.model.plan()), *arms)])


def _show_verdict(run: PruneRun, stage: str, judged: TestedDepth | Alternative | None) -> None:
    run.progress.end(stage, shown=f"{share_words(judged.kept)} {judged.verdict}" if judged and judged.kept else "n/a")


def share_words(kept: Sequence[TaskKept]) -> str:
    """The share that the worst task keeps, for progress."""
    least = least_kept(kept)
    return "n/a" if least == float("-inf") else f"{least:.0%}"


def judge_arms(run: PruneRun, arms: Sequence[Arm], others: Sequence[str]) -> FixedSequence:
    """Test the arms in order, the largest model first, and each other model, from their run folders.

    All share the error 1 - LEVEL: the arms are one path and each other model is one; a path on which all passed hands
    its part on (``fixed_sequences``).

    Args:
        arms: all that were asked, the largest model first, without the original model.
        others: names of the other models.

    Raises:
        InputError: a run that is not finished.
    """
    uncut = RunFolder.open(run.folder / UNCUT)
    rows: dict[str, list[ComparisonRow]] = {}
    for name in [*(arm.name for arm in arms), *map(run_of, others)]:
        compared = compare_runs(uncut, [RunFolder.open(run.folder / name)], seed=run.seed)
        rows[name] = [row for row in compared if row.is_headline]
    plans = [DepthEvidence(turn, arm.name, tuple(rows[arm.name])) for turn, arm in enumerate(arms, start=1)]
    paths = {_PLANS: plans} if arms else {}
    paths |= {name: [DepthEvidence(1, name, tuple(rows[name]))] for name in map(run_of, others)}
    sequences = fixed_sequences(paths, run.settings.keep, level=LEVEL)
    # Plans are tested in the order of the arms, up to the first that fails.
    tested = [
        TestedDepth(
            name=arm.name,
            **removal_of(arm.plan),
            healing=arm.healing,
            items_needed=plan.items_needed,
            disk_bytes=plan_cut(run.model.source.path, arm.plan).bytes_after,
            **_judgement_of(plan, rows[arm.name]),
        )
        for arm, plan in zip(arms, sequences[_PLANS].tested if arms else (), strict=False)
    ]
    alternatives = []
    for name, folder in zip(others, map(run_of, others), strict=True):
        judged = next(iter(sequences[folder].tested), None)
        alternatives.append(
            Alternative(
                model=name,
                run=folder,
                disk_bytes=RunFolder.open(run.folder / folder).metrics()["disk_bytes"],
                level=judged.level if judged else LEVEL,
                **_judgement_of(judged, rows[folder]),
            )
        )
    return FixedSequence(tuple(tested), next(iter(sequences.values())).not_judged, tuple(alternatives))


def _judgement_of(judged: JudgedDepth | None, rows: Sequence[ComparisonRow]) -> dict[str, Any]:
    """The verdict on one model, and what it keeps of each task; undecided where no task could be judged."""
    if judged is None:
        return {"kept": (), "passed": False, "verdict": "undecided"}
    assert judged.verdict != "not tested", "only tested models are judged here"
    tasks = {(task.task, task.readout): task for task in judged.tasks}
    kept = tuple(
        TaskKept(
            task=row.task,
            readout=row.readout,
            uncut=as_estimated(row.values.uncut),
            cut=as_estimated(row.values.cut),
            kept=None if row.kept_share is None else as_estimated(row.kept_share),
            bound=task.low if (task := tasks.get((row.task, row.readout))) else None,
            passed=task.verdict == "passed" if task else None,
        )
        for row in rows
    )
    return {"kept": kept, "passed": judged.verdict == "passed", "verdict": judged.verdict}


def check_side_effects(run: PruneRun, arm: Arm) -> tuple[SideEffect, ...]:
    """Have the original model and the checkpoint answer the suite ``side_effects``, and compare them check by check."""
    checks = checks_for(run.model, run.seed)
    if not checks:
        run.progress.end(SIDE_EFFECTS, note="not checked: the model can be asked none of them")
        return ()
    before, after = (f"{FOLDER}/{name}" for name in (UNCUT, arm.name))
    _answer_cells(run, before, SIDE_EFFECTS, run.model, checks)
    run.release()
    model = run.handle_of(run.folder / MODEL)
    _answer_cells(run, after, SIDE_EFFECTS, model, checks)
    model.release()
    compared = compare_two(*(RunFolder.open(run.folder / name) for name in (before, after)), seed=run.seed)
    rows = [row for row in compared if row.is_headline]
    effects = tuple(
        SideEffect(
            task=row.task,
            uncut=as_estimated(row.values.uncut),
            cut=as_estimated(row.values.cut),
            difference=as_estimated(row.values.difference),
            p=p,
            is_shown=p < ALPHA,
        )
        for row, p in zip(rows, adjust_by_holm([row.values.p_value for row in rows]), strict=True)
    )
    shown = sum(effect.is_shown for effect in effects)
    run.progress.end(SIDE_EFFECTS, note=f"{count_of(len(effects), 'check')}, {shown} with a difference that counts")
    return effects
