"""The deepest cut that is shown to keep what was asked for: depths tested in order, until the first one fails.

All tasks of a depth have to pass, so each lower bound has the full level (intersection-union test), and a failure ends
the test, so each depth has it too. Papers: docs/reference/statistics.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from layercut.errors import InputError
from layercut.evidence.bounds import retention_bounds
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.paired import TaskRow
from layercut.evidence.sample_size import MANY, Differences, items_to_decide
from layercut.runs.prune import SetAside

TestVerdict = Literal["passed", "shown to fail", "undecided", "not tested"]


@dataclass(frozen=True)
class DepthEvidence:
    """Measured rows of one plan on report items."""

    depth: float  # number of layers removed; or another number that says when the plan's turn is
    plan: str  # its name
    rows: tuple[TaskRow, ...]  # one a task (and readout), against the original model on the same items, with ``items``


@dataclass(frozen=True, kw_only=True)
class JudgedTask:
    """Retained score of one depth on one task, with bounds."""

    task: str
    readout: str
    n: int  # number of items
    num_clusters: int | None  # contexts that the items share, if any
    kept: float  # retention above chance on these items
    low: float | None
    """At least this is kept, at the level of the test. None where the items do not separate uncut from chance."""
    high: float | None  # at most this is kept, at the level of the test over all tasks together
    verdict: TestVerdict
    items_needed: int | None  # in all, that would decide an undecided one with a power of 80 %; None where unknown


@dataclass(frozen=True, kw_only=True)
class JudgedDepth:
    """One depth that was tested."""

    depth: float
    plan: str
    verdict: TestVerdict
    """``passed``: every task did. ``shown to fail``: a task keeps less than asked for, by its upper bound.
    ``undecided``: neither. ``not tested``: a depth that was judged only to be shown."""
    tasks: tuple[JudgedTask, ...]
    missing: tuple[str, ...]  # tasks that were measured at another depth and not at this one; then it cannot pass
    level: float  # probability with which each lower bound holds
    items_needed: int | None  # of each task, that would decide an undecided one; None where unknown

    @property
    def passed(self) -> bool:
        """Return True where every task keeps the share that was asked for."""
        return self.verdict == "passed"


@dataclass(frozen=True, kw_only=True)
class SequenceResult:
    """Every depth that was tested."""

    tested: tuple[JudgedDepth, ...]  # in order; all but the last one passed, and the last one where all did
    not_judged: tuple[SetAside, ...]
    """Tasks on which nothing can be kept or lost, such as one on which the original model guesses."""

    @property
    def deepest(self) -> JudgedDepth | None:
        """The deepest that passed; None where none did."""
        return next((depth for depth in reversed(self.tested) if depth.passed), None)


def fixed_sequences(
    paths: Mapping[str, Sequence[DepthEvidence]],
    keep: float,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    lengths: Mapping[str, int] | None = None,
    judged: dict[Hashable, JudgedDepth] | None = None,
) -> dict[str, SequenceResult]:
    """Test the depths of each path in order, such as a path of every criterion; stop at the first that fails.

    The verdict on a depth does not depend on those behind it, if all were asked the same tasks. A task decides nothing
    where its metric has no chance level or does not lie between 0 and 1, and where the original model is at chance at
    the first depth that measured it.

    The error rate 1 - level is shared by the paths in equal parts. A path on which every depth passed hands its part on
    to the others, which are then tested again. With one plan a path this is Holm's procedure.

    What comes first on a path must not depend on these items. With a probability of ``level``, no depth that keeps less
    is passed on any path.

    Args:
        lengths: the number of depths of every path, where some are not measured yet; a path may lack in ``paths``.
        judged: verdicts of earlier calls on the same rows, which are not computed again; new ones are added.

    Raises:
        InputError: a share that cannot be.
    """
    if not 0 < keep <= 1:
        raise InputError(f"`keep` {keep:g} is not a share between 0 and 1, such as 0.9.")
    for steps in paths.values():
        assert steps and all(step.rows for step in steps), "a depth without rows"
        assert all(early.depth < late.depth for early, late in pairwise(steps)), "depths that are not in order"
    first: dict[tuple[str, str], TaskRow] = {}
    for row in (row for steps in paths.values() for step in steps for row in step.rows):
        first.setdefault((row.task, row.readout), row)
    reasons = {key: reason for key, row in first.items() if (reason := why_not_judged(row))}
    wanted = [key for key in first if key not in reasons]
    not_judged = tuple(SetAside(task=task, readout=readout, reason=why) for (task, readout), why in reasons.items())
    lengths = lengths or {name: len(steps) for name, steps in paths.items()}
    judged = {} if judged is None else judged
    results: dict[str, SequenceResult] = {}
    done: set[str] = set()
    while True:
        active = [name for name in lengths if name not in done]
        for name in active:
            tested: list[JudgedDepth] = []
            error = (1 - level) / len(active)
            for step in paths.get(name, ()) if wanted else ():
                key = (name, step.plan, error, *wanted)
                if key not in judged:
                    judged[key] = judge_depth(step, wanted, keep, error, num_resamples)
                tested.append(judged[key])
                if not tested[-1].passed:
                    break
            results[name] = SequenceResult(tested=tuple(tested), not_judged=not_judged)
        finished = {name for name in active if sum(depth.passed for depth in results[name].tested) == lengths[name]}
        done |= finished
        if not finished or len(done) == len(lengths):
            return results


def why_not_judged(row: TaskRow) -> str:
    """Reason for which a task decides nothing; empty where it decides."""
    assert row.items is not None, "bounds need the items of a row"
    if row.chance is None:
        return "its score has no chance level, so retention above chance is undefined"
    values = (*row.items.uncut, *row.items.cut)
    if min(values) < 0 or max(values) > 1:
        return "its score does not lie between 0 and 1"
    uncut = row.values.uncut
    if uncut.low is None or uncut.low <= row.chance:
        return f"the original model is not significantly above chance ({row.chance:.3g}) on {uncut.n} items"
    return ""


def judge_depth(
    step: DepthEvidence,
    wanted: Sequence[tuple[str, str]],
    keep: float,
    error: float,
    num_resamples: int = NUM_RESAMPLES,
) -> JudgedDepth:
    """One depth by itself, whether or not its turn came.

    All tasks ``wanted`` have to pass. ``error`` is the rate of each lower bound; the upper bounds share it.
    """
    rows = {(row.task, row.readout): row for row in step.rows}
    # Any one task can show that a depth fails, so upper bounds share the error rate. All have to pass, so lower bounds
    # have all of it.
    tasks = tuple(
        judge_task(rows[key], keep, error, error / len(wanted), num_resamples) for key in wanted if key in rows
    )
    missing = tuple(f"{task} ({readout})" for task, readout in wanted if (task, readout) not in rows)
    verdicts = {task.verdict for task in tasks}
    verdict: TestVerdict = "undecided"
    if "shown to fail" in verdicts:
        verdict = "shown to fail"
    elif verdicts == {"passed"} and not missing:
        verdict = "passed"
    return JudgedDepth(
        depth=step.depth,
        plan=step.plan,
        verdict=verdict,
        tasks=tasks,
        missing=missing,
        level=1 - error,
        items_needed=_items_needed(tasks, keep) if verdict == "undecided" and not missing else None,
    )


def _items_needed(tasks: Sequence[JudgedTask], keep: float) -> int | None:
    """Number of items that decide: of all open tasks where each keeps enough here, else of one that keeps less."""
    undecided = [task for task in tasks if task.verdict == "undecided"]
    below = [task.items_needed for task in undecided if task.kept < keep]
    needed = [count for count in below or [task.items_needed for task in undecided] if count is not None]
    if below:
        return min(needed, default=None)
    return max(needed, default=None) if len(needed) == len(undecided) else None


def judge_task(row: TaskRow, keep: float, low_error: float, high_error: float, num_resamples: int) -> JudgedTask:
    """One row by its two bounds, each with its own error rate."""
    assert row.items is not None and row.chance is not None
    uncut, cut, clusters, _ = row.items
    bounds = retention_bounds(
        uncut,
        cut,
        chance=row.chance,
        low_error=low_error,
        high_error=high_error,
        seed=row.seed,
        clusters=clusters,
        num_resamples=num_resamples,
    )
    verdict: TestVerdict = "undecided"
    if bounds.low is not None and bounds.low >= keep:
        verdict = "passed"
    elif bounds.high is not None and bounds.high < keep:
        verdict = "shown to fail"
    needed, may_pass = None, bounds.value > keep
    if verdict == "undecided" and (bounds.low if may_pass else bounds.high) is not None:
        measured = Differences.measured(uncut, cut, keep=keep, chance=row.chance, clusters=clusters)
        differences, error = (measured, low_error) if may_pass else (measured.negated(), high_error)
        needed = items_to_decide(differences, error, start=bounds.n + 1, most=MANY * bounds.n)
    return JudgedTask(
        task=row.task,
        readout=row.readout,
        n=bounds.n,
        num_clusters=row.values.num_clusters,
        kept=bounds.value,
        low=bounds.low,
        high=bounds.high,
        verdict=verdict,
        items_needed=needed,
    )
