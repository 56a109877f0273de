"""Compare an original and a pruned run, read from two run folders and paired by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from layercut.errors import InputError
from layercut.evidence.intervals import ALPHA, Estimate, adjust_by_holm, clusters_of, plain_estimates
from layercut.evidence.paired import PairedItems, TaskRow, compare_paired
from layercut.runs.directory import RunFolder
from layercut.runs.records import NO_SHARE
from layercut.surgery.plan import lost_since, mlp_share, origin_of_plan
from layercut.text import Removal, count_of, of_test_set

KEPT = 0.9
"""A task counts as kept where the interval of its retention above chance lies at or above this share."""

Finding = Literal[
    "passed", "shown to fail", "kept", "better", "gained", "damaged", "lost", "undecided", "at chance"
]  # fmt: skip
OUTCOMES = ("right", "wrong", "no_answer", "cut")


@dataclass(frozen=True, kw_only=True)
class ComparedRun(Removal):
    """One side of a comparison: a run folder and what it records about its model."""

    name: str  # name of the run folder
    num_layers: int | None = None  # decoder layers of the original model; None where the run has no plan
    removed: tuple[int, ...] = ()  # layers that are gone, in order of removal
    mlp: float = 0.0  # share of the MLP channels that is gone
    criterion: str = ""  # criterion that chose them
    num_parameters: int | None = None  # size of the model under the plan, where the run records it
    disk_bytes: int | None = None  # of the weights as they are stored, where the run records it
    plan: str = ""  # name of the cut in its study; for a healed one, of the cut that was healed. Empty outside studies.
    healing: str = ""  # name of the healing arm, or outside studies the methods; empty where nothing was healed
    seed: int | None = None  # random seed of this arm; None outside studies
    origin: str = ""  # layers lost before this run, and another model that the layers were chosen for; mostly empty
    checkpoint: str = ""  # the checkpoint, as it was named, where the run removed nothing of one that was cut before

    @property
    def depth(self) -> int:
        """Number of layers that are gone."""
        return len(self.removed)

    @property
    def is_cut(self) -> bool:
        """Return True where something is gone."""
        return bool(self.removed or self.mlp)

    @property
    def turn(self) -> float:
        """How much is gone, in layers: an MLP channel of all layers counts as its share of them."""
        return self.depth + (round(self.mlp * ((self.num_layers or 0) - self.depth), 3) if self.mlp else 0)

    @property
    def is_healing_arm(self) -> bool:
        """Return True where a study healed it; a checkpoint may have been healed before a run got it."""
        return bool(self.healing and (self.plan or not self.origin))


Verdict = Literal["better", "worse", "not shown", "equivalent", "not worse", "too few items", "not judged"]


class Margin(NamedTuple):
    """Change of the score that makes no difference."""

    size: float  # 0.02: two points of a score from 0 to 1, or 2 % of A's score above chance
    is_share: bool  # True for a share of A's score above chance

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Read ``2`` (points of score) or ``5%`` (of A's score above chance).

        >>> Margin.parse("2"), Margin.parse("5%")
        (Margin(size=0.02, is_share=False), Margin(size=0.05, is_share=True))

        Raises:
            InputError: text that is neither, or not from 0.1 to 100.
        """
        try:
            size = float(text.strip().removesuffix("%"))
        except ValueError:
            size = 0.0
        if not 0.1 <= size < 100:
            raise InputError(f"margin {text!r:.40} is none: write 2 for two points of score, or 5% of A's score.")
        return cls(size / 100, text.strip().endswith("%"))

    def __str__(self) -> str:
        return f"{100 * self.size:g}" + (" % of A's score above chance" if self.is_share else " points")


class MarginVerdict(NamedTuple):
    """Verdict on one row under a margin."""

    verdict: Verdict
    margin: Margin
    low: float | None = None  # B - A is at least this, at 95 %; of a margin that is a share, what B keeps
    high: float | None = None  # at most this, at 95 % of its own
    items_needed: int | None = None  # items in all that decide ``too few items`` with a power of 80 %, if known
    reason: str = ""  # why a row is not judged


class AnswerChanges(NamedTuple):
    """Changed answers to the same items; None where the samples do not hold them."""

    same_score: int | None = None  # items with the same score
    other_answer: int | None = None  # of these, answers that differ (churn)
    both_wrong: int | None = None  # items with two wrong answers; None for metrics that are not 0/1
    same_wrong: int | None = None  # of these, the same answer
    log_likelihood: Estimate | None = None  # mean change of the right option's, B - A, in nats


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(TaskRow):
    """One metric of one task and readout, uncut against cut."""

    uncut: ComparedRun
    cut: ComparedRun
    is_headline: bool
    """True for the first metric of a task and readout, which is the main one."""
    is_share: bool
    """True where all values lie between 0 and 1, to be shown in percent; never for a perplexity or log-likelihood."""
    uncut_outcomes: Mapping[str, int]
    """Number of answers by outcome: right, wrong, no_answer, cut (by the length limit)."""
    cut_outcomes: Mapping[str, int]
    note: str
    """Remark on the pairing; empty where both runs hold the same items."""
    test_set: int | None = None
    """Number of items of the benchmark's whole test set; None where there is none."""
    split: str = ""
    """``report`` where one of the runs leaves out items of the test set that chose layers or healed; else ``full``."""
    p_adjusted: float | None = None
    """The p-value after Holm's correction over all rows that were compared together; None for a row on its own."""
    judged: Finding | None = None
    """Verdict of the rule of ``layercut prune``, where it tested this row; it is then the finding."""
    bound: float | None = None
    """One-sided lower bound of the retention, by which that rule decides."""
    by_margin: MarginVerdict | None = None
    """Verdict under ``compare --margin``."""
    changes: AnswerChanges | None = None
    """Changes of the answers beyond right and wrong, of a main metric in ``compare``."""
    group: tuple[str, ...] = ()
    """Tasks whose items a row of a group holds; empty for a row of one task."""

    @property
    def asked(self) -> str:
        """Part of the test set that both runs answered: ``full test set, 164``; empty where there is none."""
        return of_test_set(self.n, self.test_set, self.split)

    @property
    def p_value(self) -> float:
        """Adjusted for the other comparisons, where there are any."""
        return self.values.p_value if self.p_adjusted is None else self.p_adjusted

    @property
    def uncut_is_at_chance(self) -> bool:
        """Return True for an original model that is not significantly above guessing: no share of it can be kept."""
        return not self._is_above_chance(self.values.uncut)

    def _is_above_chance(self, score: Estimate) -> bool:
        return self.chance is None or (score.low is not None and score.low > self.chance)

    @property
    def finding(self) -> Finding:
        """The claim that the intervals support, and no more; layercut.report.words says what each means.

        A change counts where the interval of the difference leaves out 0 and p < 0.05 after Holm's correction.
        """
        if self.judged is not None:
            return self.judged
        difference, kept = self.values.difference, self.kept_share
        changed = self.p_value < ALPHA
        is_better = difference.low is not None and difference.low > 0 and changed
        if self.uncut_is_at_chance:
            return "gained" if is_better and self._is_above_chance(self.values.cut) else "at chance"
        if difference.low is None or difference.high is None:
            return "undecided"
        if is_better:
            return "better"
        if kept is not None and kept.low is not None and kept.low >= KEPT:
            return "kept"
        if difference.high < 0 and changed:
            return "damaged" if self._is_above_chance(self.values.cut) else "lost"
        return "undecided"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for ``--json``."""
        return {
            "run": self.cut.name,
            "removed": list(self.cut.removed),
            "num_layers": self.cut.num_layers,
            "plan": self.cut.plan or self.cut.name,
            "criterion": self.cut.criterion,
            "num_removed": self.cut.depth,
            **({"origin": self.cut.origin} if self.cut.origin else {}),
            "healing": self.cut.healing or None,
            "arm_seed": self.cut.seed,
            **{name: getattr(self, name) for name in ("task", "version", "readout", "metric", "n")},
            "items": self.asked,
            "limit": self.limit,
            "chance": self.chance,
            **plain_estimates(self.values._asdict()),
            "p_adjusted": self.p_adjusted,
            "finding": self.finding,
            "uncut_outcomes": dict(self.uncut_outcomes),
            "cut_outcomes": dict(self.cut_outcomes),
            "seed": self.seed,
            "note": self.note,
        }


def compare_runs(uncut: RunFolder, cuts: Sequence[RunFolder], *, seed: int = 0) -> list[ComparisonRow]:
    """Compare runs with the run of the original model: every task, readout and metric that both hold, item by item.

    Items are paired by id. Where two runs hold different items, those in common are compared and the row says so.
    P-values are adjusted over all rows (Holm).

    Raises:
        InputError: a run is not finished, or two that cannot be compared.
    """
    base = _Run.read(uncut)
    with uncut.reading_once():
        rows = [row for folder in cuts for row in _compare_run(base, folder, seed)]
    adjusted = adjust_by_holm([row.values.p_value for row in rows])
    return [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def _compare_run(base: _Run, folder: RunFolder, seed: int) -> list[ComparisonRow]:
    run = _Run.read(folder, base)
    shared = [key for key in base.rows if key in run.rows]
    if not shared:
        tasks = (", ".join(sorted({task for task, _, _ in side.rows})) for side in (base, run))
        renamed = "lm-eval's log" in f"{base.arm.origin} {run.arm.origin}"
        raise InputError(
            f"{base.arm.name} and {run.arm.name} have no task in common: {' and '.join(tasks)}. Run both on at "
            "least one common task"
            + ("; lm-eval's task is read from the file's name, samples_TASK_DATE.jsonl." if renamed else ".")
        )
    with folder.reading_once():
        return [_compare(base, run, key, seed) for key in shared]


def left_out(uncut: RunFolder, cuts: Sequence[RunFolder]) -> list[str]:
    """Tasks that only one of two runs holds and compare_runs passes over, a line each; empty for runs of one study."""
    base, lines = _Run.read(uncut), []
    for run in map(_Run.read, cuts):
        for here, there in ((base, run), (run, base)):
            missing = dict.fromkeys(f"{key[0]} ({key[1]})" for key in here.rows if key not in there.rows)
            if missing:
                lines.append(f"{', '.join(missing)}: only in {here.arm.name}, not in {there.arm.name}")
    return lines


def arm_of(folder: RunFolder, uncut: RunFolder | None = None) -> ComparedRun:
    """The record of a finished run about its model, or of what that has lost since it was the model of ``uncut``."""
    return _Run.read(folder, None if uncut is None else _Run.read(uncut)).arm


class _Run(NamedTuple):
    folder: RunFolder
    plan: Mapping[str, Any]
    arm: ComparedRun
    rows: dict[tuple[str, str, str], dict[str, Any]]  # by task, readout and metric

    @classmethod
    def read(cls, folder: RunFolder, base: _Run | None = None) -> _Run:
        """A finished run; beside a base, with what its model has lost since it was the base's."""
        metrics = folder.metrics()
        plan, about = metrics.get("plan") or {}, metrics.get("arm") or {}
        arm = ComparedRun(
            name=folder.name,
            num_layers=plan.get("num_layers"),
            removed=tuple(plan.get("removed", ())),
            mlp=mlp_share(plan),
            criterion=plan.get("criterion", ""),
            num_parameters=metrics.get("num_parameters"),
            disk_bytes=metrics.get("disk_bytes"),
            plan=about.get("plan") or "",
            healing=about.get("healing") or "",
            seed=about.get("seed"),
            origin=origin_of_plan(plan) or folder.origin,
        )
        rows = {(row["task"], row["readout"], row["metric"]): row for row in metrics["rows"]}
        return cls(folder, plan, arm if base is None else _since(arm, plan, base.plan), rows)

    def items(self, task: str, readout: str) -> dict[str, dict[str, Any]]:
        records = self.folder.records(task, readout)
        items = {record["id"]: record for record in records}
        if len(items) < len(records):
            doubled = Counter(record["id"] for record in records).most_common(1)[0][0]
            raise InputError(f"{self.arm.name}: item {doubled} of {task} ({readout}) occurs twice; the run is damaged.")
        return items


def _since(arm: ComparedRun, plan: Mapping[str, Any], original: Mapping[str, Any]) -> ComparedRun:
    """The arm with all that is gone of an original model, where its model was cut or healed before the run."""
    lost = lost_since(plan, original.get("model_hash"))
    if lost is None:
        return arm
    return replace(
        arm,
        num_layers=lost.num_layers,
        removed=lost.removed,
        mlp=lost.mlp,
        healing=arm.healing or "+".join(lost.healed),
        checkpoint="" if plan["removed"] or plan.get("channels") else str(plan.get("model") or ""),
    )


def _compare(base: _Run, run: _Run, key: tuple[str, str, str], seed: int) -> ComparisonRow:
    task, readout, metric = key
    row, other = sides = base.rows[key], run.rows[key]
    if row["version"] != other["version"]:
        raise InputError(
            f"{task} was version {row['version']} in {base.arm.name} and is {other['version']} in {run.arm.name}; "
            "scores of different versions cannot be compared. Run both again with one version."
        )
    before, after = base.items(task, readout), run.items(task, readout)
    ids = [item for item in before if item in after]
    if not ids:
        raise InputError(
            f"{base.arm.name} and {run.arm.name} share no item of {task} ({readout}); "
            "run both with the same seed and data."
        )
    for item in ids:
        if before[item]["gold"] != after[item]["gold"]:
            raise InputError(
                f"item {item} of {task} has the right answer {before[item]['gold']!r} in {base.arm.name} and "
                f"{after[item]['gold']!r} in {run.arm.name}; run both with the same data."
            )
    uncut, cut = ([float(records[item]["metrics"][metric]) for item in ids] for records in (before, after))
    notes = []
    if len(ids) < max(len(before), len(after)):
        notes.append(
            f"{count_of(len(ids), 'item')} of {task} in common ({base.arm.name} has {len(before)}, "
            f"{run.arm.name} has {len(after)})"
        )
    outcomes = []
    for records in (before, after):
        counts = Counter(records[item]["outcome"] for item in ids)
        outcomes.append({name: counts[name] for name in dict.fromkeys([*OUTCOMES, *sorted(counts)])})
    sizes = {side["test_set"] for side in sides if side.get("test_set") is not None}
    rest = next((side for side in sides if side.get("split") == "report"), None)
    # The items in common are those of the rest, and so is the score of guessing.
    chance, clusters = (rest or row)["chance"], clusters_of([before[item] for item in ids])
    return ComparisonRow(
        uncut=base.arm,
        cut=run.arm,
        task=task,
        version=row["version"],
        readout=readout,
        metric=metric,
        is_headline=key == next(known for known in base.rows if known[:2] == key[:2]),
        is_share=not NO_SHARE.search(metric) and all(0 <= value <= 1 for value in [*uncut, *cut, chance or 0.0]),
        chance=chance,
        limit=row["limit"] if row["limit"] is not None else other["limit"],
        seed=seed,
        values=compare_paired(uncut, cut, chance=chance, seed=seed, clusters=clusters),
        uncut_outcomes=outcomes[0],
        cut_outcomes=outcomes[1],
        note="; ".join(notes),
        test_set=sizes.pop() if len(sizes) == 1 else None,
        split="full" if rest is None else "report",
        items=PairedItems(uncut, cut, clusters, ids),
        group=tuple(row.get("group", ())),
    )
