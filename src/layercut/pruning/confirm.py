"""Confirm plans on report items: the original model and one depth after the other, each in a run folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow, compare_runs
from layercut.evidence.fixed_sequence import DepthEvidence, JudgedDepth, fixed_sequences
from layercut.runs.directory import RunFolder
from layercut.runs.prune import Alternative, TaskKept, TaskScore, TestedDepth, measured
from layercut.settings import UNCUT
from layercut.surgery.plan import CutPlan

LEVEL = 0.95  # confidence level of all tests together
_PLANS = "plans"


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


def gone_of(plan: CutPlan) -> dict[str, Any]:
    """Removed layers and channels of a plan, as results hold them."""
    mlp = plan.channels.share if plan.channels else 0.0
    return {"depth": len(plan.removed), "removed": plan.removed, "mlp": mlp}


class FixedSequence(NamedTuple):
    """Results of a fixed sequence so far."""

    tested: tuple[TestedDepth, ...]
    judged: tuple[JudgedDepth, ...]
    not_judged: tuple[tuple[str, str, str], ...]  # task, readout and why these report items decide nothing about it
    others: tuple[Alternative, ...] = ()  # other models that answered


class Other(NamedTuple):
    """Another model that answered the report items."""

    model: str  # as it was named
    run: str
    disk_bytes: int


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
    rows: dict[str, list[ComparisonRow]] = {}
    for names in ([arm.name for arm in arms], [one.run for one in others]):
        for name, run in zip(names, [RunFolder.open(folder / name) for name in names], strict=True):
            rows[name] = [row for row in compare_runs(uncut, [run], seed=seed) if row.is_headline]
    paths = {one.run: [DepthEvidence(1, one.run, tuple(rows[one.run]))] for one in others}
    if arms:
        steps = [DepthEvidence(turn, arm.name, tuple(rows[arm.name])) for turn, arm in enumerate(arms, start=1)]
        paths = {_PLANS: steps, **paths}
    found = fixed_sequences(paths, keep, level=level)
    by_name = {arm.name: arm for arm in arms}
    judged = found[_PLANS].tested if arms else ()
    tested = tuple(_tested(one, by_name[one.plan], rows[one.plan]) for one in judged)
    left_out = next(iter(found.values())).not_judged
    return FixedSequence(
        tested,
        judged,
        tuple((one.task, one.readout, one.reason) for one in left_out),
        tuple(_weighed(one, found[one.run].tested, rows[one.run], level) for one in others),
    )


def _weighed(other: Other, tested: Sequence[JudgedDepth], rows: Sequence[ComparisonRow], level: float) -> Alternative:
    kept = _kept(tested[0], rows) if tested else ()
    verdict = tested[0].verdict if tested else "undecided"
    assert verdict != "not tested", "one model is tested"
    return Alternative(
        **other._asdict(),
        level=tested[0].level if tested else level,
        kept=kept,
        passed=verdict == "passed",
        verdict=verdict,
    )


def _tested(judged: JudgedDepth, arm: Arm, rows: Sequence[ComparisonRow]) -> TestedDepth:
    assert judged.verdict != "not tested", "only tested depths are judged here"
    return TestedDepth(
        name=arm.name,
        **gone_of(arm.plan),
        healing=arm.healing,
        kept=_kept(judged, rows),
        passed=judged.passed,
        verdict=judged.verdict,
        items_needed=judged.items_needed,
    )


def _kept(judged: JudgedDepth, rows: Sequence[ComparisonRow]) -> tuple[TaskKept, ...]:
    by_task = {(one.task, one.readout): one for one in judged.tasks}
    kept = []
    for row in rows:
        one = by_task.get((row.task, row.readout))
        kept.append(
            TaskKept(
                task=row.task,
                readout=row.readout,
                uncut=measured(row.values.uncut),
                cut=measured(row.values.cut),
                kept=None if row.kept_share is None else measured(row.kept_share),
                bound=None if one is None or one.low is None else one.low,
                passed=None if one is None else one.verdict == "passed",
            )
        )
    return tuple(kept)


def original_scores(folder: Path) -> tuple[TaskScore, ...]:
    """The original model's scores on report items."""
    found: dict[tuple[str, str], TaskScore] = {}
    for row in RunFolder.open(folder / UNCUT).metrics()["rows"]:
        score = {name: row[name] for name in ("value", "low", "high", "n")}
        found.setdefault(
            (row["task"], row["readout"]),
            TaskScore.model_validate({"task": row["task"], "readout": row["readout"], "score": score}),
        )
    if not found:
        raise InputError(f"{folder / UNCUT} holds no scores; run the same command again.")
    return tuple(found.values())
