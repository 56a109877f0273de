"""How deep a study shows that its model can be cut for a use: its plans, tested in order of depth.

The plans of one criterion, healed in one way, are a path. See layercut.evidence.fixed_sequence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, fixed_sequences, judge_depth
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.uses import Use

KEEP, CONFIDENCE = 0.9, 0.95
"""Target share in a study's report; `layercut report --keep` takes others. Probability that a recommended plan keeps
it."""


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
