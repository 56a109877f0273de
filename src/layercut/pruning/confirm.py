"""Ask report items, and judge: plans in a fixed order, other models, and side effects of the checkpoint.

The original model, each plan and each other model answer into a run folder of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, SequenceResult, fixed_sequences
from layercut.evidence.intervals import ALPHA, adjust_by_holm
from layercut.evidence.two_runs import compare_two
from layercut.pruning.budget import checks_for
from layercut.pruning.run import PruneRun, healed_checkpoint, removal_of
from layercut.pruning.speed import MadeModel, other_model, run_of
from layercut.runs.directory import METRICS, RunFolder
from layercut.runs.prune import (
    GGUF,
    MODEL,
    Alternative,
    SetAside,
    SideEffect,
    TaskKept,
    TestedDepth,
    as_estimated,
    least_kept,
)
from layercut.runs.study import ARMS, UNCUT
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.gguf import SUFFIX
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, evaluate_cells, run_settings
from layercut.text import count_of

LEVEL = 0.95  # confidence level of all tests together
PLANS = "plans"  # name of the path of plans
SIDE_EFFECTS = "side effects"  # name of the stage
FOLDER = "side_effects"  # folder of the run folders of both models, inside the folder of prune


class Arm(NamedTuple):
    """One model whose answers to report items are asked."""

    name: str  # of its run folder
    plan: CutPlan  # plan on the original model
    healing: str | None = None
    stage: str = "original"  # for progress
    other: str = ""  # a model that was named, or words for one that was made
    file: Path | None = None  # of one that was made: a GGUF file, or the folder of the original without tokens

    @property
    def is_gguf(self) -> bool:
        """True for a GGUF file that was made."""
        return self.file is not None and self.file.suffix == SUFFIX

    @property
    def is_named(self) -> bool:
        """True for a model that was named beside the original one."""
        return bool(self.other) and self.file is None

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
    others: tuple[Alternative, ...] = ()  # files and other models that answered


def named_arm(name: str, num_layers: int) -> Arm:
    """A model that was named beside the original one."""
    return Arm(run_of(name), CutPlan(num_layers=num_layers), stage=name, other=name)


def handle_of_arm(run: PruneRun, arm: Arm, **settings: Any) -> ModelHandle:
    """The model that answers for an arm; the original one runs under the plan of an arm that is a plan alone.

    Args:
        settings: of a file or another model, in place of the original model's.
    """
    if arm.name == UNCUT:
        return run.original
    if arm.file is not None:
        return MadeModel(run.model, arm.file, **settings) if arm.is_gguf else run.model
    if arm.other:
        return other_model(run.model.settings.replace(**settings), arm.other)
    return run.handle_of(healed_checkpoint(run, arm.plan)) if arm.healing else run.model


def ask_arm(run: PruneRun, arm: Arm) -> None:
    """Have one model answer the report items; InputError: one of them chose the plan."""
    is_finished = (run.folder / arm.name / METRICS).is_file()
    if arm.healing and not arm.other and is_finished and not healed_checkpoint(run, arm.plan).exists():
        return  # of a finished run, which keeps no healings
    if arm.other or (arm.name == UNCUT and run.original is not run.model):
        run.release()
    if not (arm.file and is_finished):  # files that were made are not kept either
        model = handle_of_arm(run, arm)
        _answer_cells(run, arm.name, arm.stage, model, arm=arm)
        if model is not run.model:
            model.release()
    run.progress.end(arm.stage, note="all report items answered")


def _answer_cells(
    run: PruneRun,
    name: str,
    stage: str,
    model: ModelHandle,
    cells: Sequence[Cell] = (),
    arm: Arm | None = None,
) -> None:
    """Have a model answer ``cells``, else the report items, into a run folder: under the plan of ``arm``, which a
    healed model and a file have in themselves.
    """
    cells = cells or _report_cells(run)
    plan = recorded = arm.plan if arm and not arm.is_named else model.plan()
    healed = {}
    if arm and (arm.healing or arm.file):
        plan = CutPlan(num_layers=model.num_layers)
    if arm and arm.healing:
        healed = {"healing": {"method": arm.healing, "model_hash": model.metadata.model_hash}}
    run.progress.begin(stage, "scoring report items", [(cell.label, cell.work()) for cell in cells])
    settings = {**run_settings(model, recorded, cells, run.decoding, run.seed), **healed}
    about = arm.describe(run.seed) if arm and not arm.other else None
    with RunFolder.begin(run.folder / name, settings, sandbox=run.isolation) as folder:
        evaluate_cells(folder, model, plan, cells, run.decoding, run.progress, recorded=recorded, arm=about)


def _report_cells(run: PruneRun) -> list[Cell]:
    limits = run.notes["report_items"]
    return [Cell(task=part.task, readout=part.readout, limit=limits[part.label]) for part in run.parts]


def confirm_arms(run: PruneRun, paths: Mapping[str, Sequence[Arm]]) -> FixedSequence:
    """Test each path in its order on report items, up to the first that fails; ``PLANS`` is one of the paths.

    Models that were named after the plans had been tested share an error of their own.
    """
    named = [named_arm(name, run.model.num_layers) for name in run.settings.versus]
    shared = {**paths, **{arm.name: [arm] for arm in named if arm.other in run.notes["shared"]}}
    later = {arm.name: [arm] for arm in named if arm.other not in run.notes["shared"]}
    _note_arms(run, paths[PLANS])
    first, last = _test_paths(run, shared), _test_paths(run, later)
    _note_arms(run, [arm for arm in paths[PLANS] if (run.folder / arm.name).exists()])
    places = {arm.other: place for place, arm in enumerate([*chain(*paths.values()), *named])}
    others = sorted([*first.others, *last.others], key=lambda other: places[other.model])
    return first._replace(others=tuple(others))


def _test_paths(run: PruneRun, paths: Mapping[str, Sequence[Arm]]) -> FixedSequence:
    """Ask and judge one model after the other, the largest of a path first, while the path goes on.

    All paths share the error 1 - LEVEL; one on which all passed hands its part on (``fixed_sequences``). Each model is
    compared with the original once, and judged once at each level.
    """
    lengths = {name: len(arms) for name, arms in paths.items()}
    answered: dict[str, list[Arm]] = {name: [] for name in paths}
    uncut, rows = RunFolder.open(run.folder / UNCUT), dict[str, tuple[ComparisonRow, ...]]()
    judged, sequences = dict[Hashable, JudgedDepth](), dict[str, SequenceResult]()
    standing = dict.fromkeys(paths, True)
    while going := [name for name in paths if standing[name] and len(answered[name]) < lengths[name]]:
        arm = paths[going[0]][len(answered[going[0]])]
        ask_arm(run, arm)
        answered[going[0]].append(arm)
        compared = compare_runs(uncut, [RunFolder.open(run.folder / arm.name)], seed=run.seed)
        rows[arm.name] = tuple(row for row in compared if row.is_headline)
        depths = {
            name: [DepthEvidence(turn, arm.name, rows[arm.name]) for turn, arm in enumerate(arms, start=1)]
            for name, arms in answered.items()
            if arms
        }
        sequences = fixed_sequences(depths, run.settings.keep, level=LEVEL, lengths=lengths, judged=judged)
        verdicts = {depth.plan: depth for sequence in sequences.values() for depth in sequence.tested}
        verdict = _judgement_of(verdicts.get(arm.name), rows[arm.name])
        shown = f"{share_words(verdict['kept'])} {verdict['verdict']}" if verdict["kept"] else "n/a"
        run.progress.end(arm.stage, shown=shown)
        # A path that passes whole hands its part of the error on, with which another may go on that had ended.
        for name, arms in answered.items():
            standing[name] = all(own.name in verdicts and verdicts[own.name].passed for own in arms)
    return _evidence_of(run, answered, rows, sequences)


def _note_arms(run: PruneRun, arms: Sequence[Arm]) -> None:
    run.notes.put(ARMS, [arm.describe(run.seed) for arm in (Arm(UNCUT, run.original.plan()), *arms)])


def share_words(kept: Sequence[TaskKept]) -> str:
    """The share that the worst task keeps, for progress."""
    least = least_kept(kept)
    return "n/a" if least == float("-inf") else f"{least:.0%}"


def _evidence_of(
    run: PruneRun,
    answered: Mapping[str, Sequence[Arm]],
    rows: Mapping[str, Sequence[ComparisonRow]],
    sequences: Mapping[str, SequenceResult],
) -> FixedSequence:
    """The models of each path that were tested, and others whose items decide nothing."""
    tested: list[TestedDepth] = []
    others: list[Alternative] = []
    for name, arms in answered.items():
        for arm, depth in zip_longest(arms, sequences[name].tested if sequences else ()):
            judgement = _judgement_of(depth, rows[arm.name])
            if arm.other and (depth or arm is arms[0]):
                size = RunFolder.open(run.folder / arm.name).metrics()["disk_bytes"]
                level = depth.level if depth else LEVEL
                others.append(Alternative(model=arm.other, run=arm.name, disk_bytes=size, level=level, **judgement))
            elif depth:
                size = plan_cut(run.model.source.path, arm.plan).bytes_after
                own = {**removal_of(arm.plan), "healing": arm.healing, "items_needed": depth.items_needed}
                tested.append(TestedDepth(name=arm.name, disk_bytes=size, **own, **judgement))
    not_judged = next((sequence.not_judged for sequence in sequences.values()), ())
    return FixedSequence(tuple(tested), not_judged, tuple(others))


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
    checks = checks_for(run.original, [*run.parts, *_report_cells(run)], run.seed)
    if not checks:
        run.progress.end(SIDE_EFFECTS, note="not checked: the model can be asked none of them")
        return ()
    before, after = (f"{FOLDER}/{name}" for name in (UNCUT, arm.name))
    _answer_cells(run, before, SIDE_EFFECTS, run.original, checks)
    run.release_if_large()
    folder = run.folder / MODEL
    model = MadeModel(run.model, folder / GGUF) if arm.is_gguf else run.handle_of(folder)
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
    shown = count_of(sum(effect.is_shown for effect in effects), "difference")
    note = f"{shown} shown, {sum(effect.is_unconfirmed for effect in effects)} unconfirmed"
    run.progress.end(SIDE_EFFECTS, note=f"{count_of(len(effects), 'check')}, {note}")
    return effects
