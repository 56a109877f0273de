"""The rule of ``layercut advise``: depths of a study tested in order, to find how deep a model can be cut for a use.

    advise(Path("runs/quickstart"), use="math", keep=0.9)

The plans of one criterion, healed in one way, are a path. See layercut.evidence.fixed_sequence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow, compare_runs
from layercut.evidence.fixed_sequence import (
    DepthEvidence,
    JudgedDepth,
    NotJudged,
    check_keep_and_level,
    fixed_sequences,
    judge_depth,
)
from layercut.evidence.intervals import NUM_RESAMPLES, plain_estimates
from layercut.evidence.study import find_study_runs, prune_result
from layercut.evidence.uses import Use, is_written, named_use
from layercut.runs.environment import shown_path
from layercut.text import Printed

KEEP, CONFIDENCE = 0.9, 0.95
"""Target share in a study's report; `layercut advise` takes others. Probability that a recommended plan keeps it."""
Answer = Literal["cut", "none", "undecided", "no evidence"]


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

    @property
    def kept(self) -> float | None:
        """Kept on these items by the readout that keeps the least; None without any."""
        return min((task.kept for task in self.tasks), default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        arm = self.arm
        return {
            "run": arm.name,
            **{name: getattr(arm, name) for name in ("removed", "mlp", "criterion", "num_parameters", "disk_bytes")},
            **{name: getattr(self, name) for name in ("path", "verdict", "low", "items_needed", "missing")},
            "readouts": [{**plain_estimates(vars(task)), "written": is_written(task.readout)} for task in self.tasks],
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class Advice(Printed):
    """The answer for one use of one model, and all that it rests on."""

    use: Use
    keep: float
    seed: int
    uncut: ComparedRun
    plans: tuple[JudgedPlan, ...]
    """Deepest first."""
    ignored: tuple[NotJudged, ...]
    folder: Path | None = None
    """Folder of the study, for checkpoints and commands; None where it is not known."""

    @property
    def recommended(self) -> JudgedPlan | None:
        """The deepest plan that passed; of several, the one with the higher lower bound."""
        return next((plan for plan in self.plans if plan.verdict == "passed"), None)

    @property
    def best(self) -> JudgedPlan | None:
        """The tested plan that keeps the most, where none passed; one that more items may decide comes first."""
        failed = [plan for plan in self.plans if plan.tasks and plan.verdict in ("undecided", "shown to fail")]
        return max(failed, key=lambda plan: (plan.verdict == "undecided", plan.kept or 0.0), default=None)

    @property
    def num_paths(self) -> int:
        """Number of sequences that share the error rate."""
        return len({plan.path for plan in self.plans})

    @property
    def answer(self) -> Answer:
        """``cut``: a plan passed. ``none``: all were shown to keep less than asked for. ``undecided``: more items may
        change that. ``no evidence``: nothing was measured that could decide."""
        if self.recommended:
            return "cut"
        if not any(plan.tasks for plan in self.plans):
            return "no evidence"
        return "undecided" if any(plan.verdict == "undecided" for plan in self.plans) else "none"

    @property
    def evidence(self) -> Literal["generation", "likelihood", "both", "none"]:
        """The kind of answers behind the verdicts: those that the model wrote, options that it ranked, or both."""
        written = {is_written(task.readout) for plan in self.plans for task in plan.tasks}
        return "both" if len(written) == 2 else "generation" if True in written else "likelihood" if written else "none"

    @property
    def proxy(self) -> str:
        """One sentence where only parts of the use were measured; empty where a task is the use itself."""
        return self.use.note(list(dict.fromkeys(task.task for plan in self.plans for task in plan.tasks)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for ``--json``."""
        chosen, best = self.recommended, self.best
        return {
            **{name: getattr(self, name) for name in ("keep", "answer", "evidence", "proxy", "seed")},
            "use": self.use.name,
            "recommended": chosen and chosen.arm.name,
            "best": None if chosen else best and best.arm.name,
            "num_parameters": self.uncut.num_parameters,
            "plans": [plan.to_dict() for plan in self.plans],
            "ignored": [asdict(task) for task in self.ignored],
        }


def advise(folder: Path, *, use: str = "all", keep: float = KEEP, seed: int = 0) -> Advice:
    """Judge the plans of a study for a use: whether each keeps ``keep`` of the score above chance on every readout.

    Raises:
        InputError: no finished study, an unknown use, a share out of range, or no task that speaks of the use.
    """
    chosen = named_use(use)
    check_keep_and_level(keep, CONFIDENCE)
    if prune_result(folder) is not None:
        raise InputError(f"{shown_path(folder)} is of prune, which judges its plans itself; prune with another `keep`.")
    runs = find_study_runs(folder)
    rows = compare_runs(runs.uncut, runs.cuts, seed=seed)
    try:
        return judge_plans(rows, chosen, keep=keep, seed=seed, folder=Path(folder))
    except InputError as error:
        raise InputError(f"{shown_path(folder)}: {error}") from error


def judge_plans(
    rows: Sequence[ComparisonRow],
    use: Use,
    *,
    keep: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    folder: Path | None = None,
) -> Advice:
    """The same, from rows of compare_runs. Only the main metric of a readout counts. Raises InputError: see advise."""
    main = [row for row in rows if row.is_headline and row.cut.is_cut]
    if not main:
        raise InputError("no run of a pruned model is there, so there is nothing to advise.")
    spoken = [row for row in main if use.speaks_of(row.task)]
    if not spoken:
        tasks = ", ".join(dict.fromkeys(row.task for row in main))
        raise InputError(
            f"no measured task covers {use.name}, only {tasks}. Run the study with {use.wanted}, or ask "
            "for another `use`."
        )
    # One plan without evidence is enough, or plans would be judged by different tasks.
    reasons: dict[tuple[str, str], str] = {}
    for row in spoken:
        if reason := _reason(row, use):
            reasons.setdefault((row.task, row.readout), reason)
    usable = [row for row in spoken if (row.task, row.readout) not in reasons]
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
    return Advice(
        use=use,
        keep=keep,
        seed=seed,
        uncut=main[0].uncut,
        plans=tuple(plans),
        ignored=tuple(NotJudged(task=task, readout=readout, reason=why) for (task, readout), why in reasons.items()),
        folder=folder,
    )


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


def _reason(row: ComparisonRow, use: Use) -> str:
    """Why a row decides nothing for a use; empty where it decides."""
    if not use.counts(row.readout):
        written = "answers were written, but this use only chooses"
        return written if is_written(row.readout) else "answers were only ranked, but this use must write"
    if row.chance is None or not row.is_share:
        return "its score has no chance level, so retention above chance is undefined"
    if row.uncut_is_at_chance:
        return "the original model is not significantly above chance"
    return ""
