"""How deep a model can be cut for a use: a decision by lower bounds, from the folder of a study.

    advise(Path("runs/quickstart"), use="math", keep=0.9)

A plan qualifies where every readout that the use asks for keeps at least ``keep`` of its score above chance, by its
lower bound. All of them must pass, which needs no correction. Several plans are several chances of a lucky result, so
each bound has the error rate (1 - confidence) / number of plans (Bonferroni). Holm would change little, and the bounds
alone would then no longer decide which plans qualify.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from layercut.errors import InputError
from layercut.evidence.bounds import Bounds, items_to_settle, retention_bounds
from layercut.evidence.comparison import SELECTED_ON, compare_runs
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.report.study import study_runs
from layercut.report.uses import Use, named_use
from layercut.report.words import is_written
from layercut.runs.settings import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from layercut.evidence.comparison import ComparedRun, ComparisonRow

Verdict = Literal["qualifies", "refuted", "undecided"]
Answer = Literal["cut", "none", "undecided", "no evidence"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One readout of one task under one plan."""

    task: str
    readout: str
    n: int
    num_clusters: int | None
    """Contexts that the items share, if any."""
    chance: float
    low: float | None
    """Share of the score above chance that is kept at least."""
    high: float | None
    """And at most."""
    verdict: Verdict
    items_needed: int | None
    """About how many items in all would settle an undecided one; None where it is settled or no number can be said."""


@dataclass(frozen=True, kw_only=True)
class JudgedPlan:
    """One plan, by all readouts of the use that give evidence."""

    arm: ComparedRun
    verdict: Verdict
    low: float | None
    """Kept at least by the readout that keeps the least; None without any bound."""
    readouts: tuple[Judged, ...]
    missing: tuple[str, ...]
    """Readouts that give evidence elsewhere in the study and were not run under this plan; and what could show that the
    use is kept, where no plan was asked it."""


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A readout that decides nothing, and why."""

    task: str
    readout: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer for one use of one model, and all that it rests on."""

    use: Use
    keep: float
    confidence: float
    seed: int
    uncut: ComparedRun
    plans: tuple[JudgedPlan, ...]
    """Deepest first."""
    ignored: tuple[Ignored, ...]

    @property
    def recommended(self) -> JudgedPlan | None:
        """The deepest plan that qualifies; of several, the one with the higher lower bound."""
        return next((plan for plan in self.plans if plan.verdict == "qualifies"), None)

    @property
    def answer(self) -> Answer:
        """``cut``: a plan qualifies. ``none``: every plan is shown to keep less. ``undecided``: none qualifies and some
        are not refuted. ``no evidence``: nothing was measured that could decide."""
        if self.recommended:
            return "cut"
        if not any(plan.readouts for plan in self.plans):
            return "no evidence"
        return "none" if all(plan.verdict == "refuted" for plan in self.plans) else "undecided"

    @property
    def evidence(self) -> Literal["generation", "likelihood", "both", "none"]:
        """What the verdicts rest on: answers that the model wrote, options that it ranked, or both."""
        written = {is_written(one.readout) for plan in self.plans for one in plan.readouts}
        return "both" if len(written) == 2 else "generation" if True in written else "likelihood" if written else "none"

    @property
    def proxies(self) -> tuple[str, ...]:
        """The tasks that decided, where each of them is only a part of the use; empty where one is the use itself."""
        tasks = dict.fromkeys(one.task for plan in self.plans for one in plan.readouts)
        return tuple(tasks) if all(self.use.is_part(task) for task in tasks) else ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for ``--json``."""
        chosen = self.recommended
        return {
            "use": self.use.name,
            "keep": self.keep,
            "confidence": self.confidence,
            "answer": self.answer,
            "recommended": None if chosen is None else chosen.arm.name,
            "removed": [] if chosen is None else list(chosen.arm.removed),
            "evidence": self.evidence,
            "proxies": list(self.proxies),
            "num_parameters": {
                "uncut": self.uncut.num_parameters,
                "cut": None if chosen is None else chosen.arm.num_parameters,
            },
            "speed": None,
            "plans": [
                {
                    "run": plan.arm.name,
                    "num_layers": plan.arm.num_layers,
                    "removed": list(plan.arm.removed),
                    "criterion": plan.arm.criterion,
                    "num_parameters": plan.arm.num_parameters,
                    "verdict": plan.verdict,
                    "low": plan.low,
                    "missing": list(plan.missing),
                    "readouts": [{**asdict(one), "written": is_written(one.readout)} for one in plan.readouts],
                }
                for plan in self.plans
            ],
            "ignored": [asdict(one) for one in self.ignored],
            "seed": self.seed,
        }


def advise(folder: Path, *, use: str = "all", keep: float = 0.9, confidence: float = 0.95, seed: int = 0) -> Advice:
    """Judge the plans of a study for a use.

    Args:
        folder: of a finished study, as ``layercut run`` leaves it.
        use: what the model is for; see layercut.report.uses.
        keep: least share of the score above chance that has to be kept on every readout.
        confidence: probability that a recommended plan does keep it.
        seed: of the resampling.

    Raises:
        InputError: no finished study, an unknown use, a share out of range, or no task that speaks of the use.
    """
    chosen = named_use(use)
    _check(keep, confidence)
    runs = study_runs(folder)
    rows = compare_runs(runs.uncut, runs.cuts, seed=seed)
    try:
        return judge(rows, chosen, keep=keep, confidence=confidence, seed=seed)
    except InputError as error:
        raise InputError(f"{shown(folder)}: {error}") from error


def judge(
    rows: Sequence[ComparisonRow],
    use: Use,
    *,
    keep: float,
    confidence: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Advice:
    """The same, from rows of compare_runs. Only the main metric of a readout counts.

    Raises:
        InputError: see advise.
    """
    _check(keep, confidence)
    main = [row for row in rows if row.is_headline and row.cut.removed]
    if not main:
        raise InputError("no run of a model with layers removed is there, so there is nothing to advise.")
    spoken = [row for row in main if use.speaks_of(row.task)]
    if not spoken:
        tasks = ", ".join(dict.fromkeys(row.task for row in main))
        raise InputError(
            f"no measured task covers {use.name}, only {tasks}. Run the study with {use.wanted}, or ask "
            "for another --use."
        )
    reasons = _reasons(spoken, use)
    usable = [row for row in spoken if (row.task, row.readout) not in reasons]
    wanted = list(dict.fromkeys((row.task, row.readout) for row in usable))
    arms = {row.cut.name: row.cut for row in main}
    low_error = (1 - confidence) / len(arms)
    # A plan is refuted by any one of its readouts, so these are chances to err as well.
    high_error = low_error / max(1, len(wanted))
    only_parts = [] if any(not use.is_part(task) for task, _ in wanted) else [use.whole]
    plans = []
    for name, arm in arms.items():
        own = {(row.task, row.readout): row for row in usable if row.cut.name == name}
        judged = tuple(
            _judge_row(row, keep, low_error, high_error, seed, num_resamples)
            for row in (own[key] for key in wanted if key in own)
        )
        missing = [f"{task} ({readout})" for task, readout in wanted if (task, readout) not in own]
        plans.append(_judge_plan(arm, judged, (*missing, *only_parts)))
    plans.sort(key=lambda plan: (-len(plan.arm.removed), -(plan.low if plan.low is not None else -1e9), plan.arm.name))
    return Advice(
        use=use,
        keep=keep,
        confidence=confidence,
        seed=seed,
        uncut=main[0].uncut,
        plans=tuple(plans),
        ignored=tuple(Ignored(task=task, readout=readout, reason=why) for (task, readout), why in reasons.items()),
    )


def _check(keep: float, confidence: float) -> None:
    if not 0 < keep <= 1:
        raise InputError(f"--keep {keep:g} is not a share between 0 and 1, such as 0.9.")
    if not 0.5 <= confidence < 1:
        raise InputError(f"--confidence {confidence:g} must lie between 0.5 and 1, such as 0.95.")


def _reasons(rows: Sequence[ComparisonRow], use: Use) -> dict[tuple[str, str], str]:
    """Why a task's readout decides nothing, for those that do not. One plan is enough, or plans would be judged by
    different tasks."""
    reasons: dict[tuple[str, str], str] = {}
    for row in rows:
        why = _reason(row, use)
        if why:
            reasons.setdefault((row.task, row.readout), why)
    return reasons


def _reason(row: ComparisonRow, use: Use) -> str:
    if not use.counts(row.readout):
        other = (
            "written, but this use only chooses" if is_written(row.readout) else "only ranked, but this use must write"
        )
        return f"answers were {other}"
    if SELECTED_ON in row.note:
        return SELECTED_ON
    if row.chance is None or not row.is_share:
        return "its score has no chance level, so retention above chance is undefined"
    if row.uncut_is_at_chance:
        return "the original model is not significantly above chance"
    return ""


def _judge_row(
    row: ComparisonRow, keep: float, low_error: float, high_error: float, seed: int, num_resamples: int
) -> Judged:
    assert row.items is not None, "rows of compare_runs carry their items"
    assert row.chance is not None, "readouts without chance were sorted out"
    bounds = retention_bounds(
        row.items.uncut,
        row.items.cut,
        chance=row.chance,
        low_error=low_error,
        high_error=high_error,
        seed=seed,
        clusters=row.items.clusters,
        num_resamples=num_resamples,
    )
    verdict = _verdict(bounds, keep)
    error = low_error if bounds.value > keep else high_error
    return Judged(
        task=row.task,
        readout=row.readout,
        n=bounds.n,
        num_clusters=row.values.num_clusters,
        chance=row.chance,
        low=bounds.low,
        high=bounds.high,
        verdict=verdict,
        items_needed=items_to_settle(bounds, keep, error=error) if verdict == "undecided" else None,
    )


def _verdict(bounds: Bounds, keep: float) -> Verdict:
    if bounds.low is not None and bounds.low >= keep:
        return "qualifies"
    return "refuted" if bounds.high is not None and bounds.high < keep else "undecided"


def _judge_plan(arm: ComparedRun, judged: tuple[Judged, ...], missing: tuple[str, ...]) -> JudgedPlan:
    lows = [one.low for one in judged]
    low = min((low for low in lows if low is not None), default=None) if None not in lows else None
    verdict: Verdict = "undecided"
    if any(one.verdict == "refuted" for one in judged):
        verdict = "refuted"
    elif judged and not missing and all(one.verdict == "qualifies" for one in judged):
        verdict = "qualifies"
    return JudgedPlan(arm=arm, verdict=verdict, low=low, readouts=judged, missing=missing)
