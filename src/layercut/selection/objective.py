"""Task scores as an objective: how much of the uncut model's ability a plan leaves, on selection items only."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from layercut.engine.base import Decoding, Engine
from layercut.errors import InputError, unknown
from layercut.evidence.intervals import Estimate, mean_interval
from layercut.evidence.splits import items_hash
from layercut.selection.base import Objective, Progress, silent
from layercut.selection.items import SELECTION_ITEMS, record_items
from layercut.selection.search_journal import Question, SearchJournal
from layercut.surgery.plan import CutPlan, format_layers
from layercut.tasks.base import Readout, Sample, Task
from layercut.tasks.evaluate import evaluate

if TYPE_CHECKING:
    from layercut.runs.records import Journal

Normalise = Literal["raw", "chance"]
"""``raw``: cut / uncut. ``chance``: (cut - chance) / (uncut - chance)."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveTask:
    """One task under one readout, as part of an objective."""

    task: Task
    readout: Readout
    limit: int | None = 100
    """The first so many selection items. arXiv:2602.01997 takes 100."""

    def __post_init__(self) -> None:
        if self.readout not in self.task.readouts:
            raise unknown(f"readout of {self.task.name}", self.readout, self.task.readouts)

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.task.name} ({self.readout})"

    def describe(self) -> dict[str, Any]:
        """What decides the scores, for a run's settings."""
        return {"task": self.task.name, "readout": self.readout, "limit": self.limit, **self.task.settings()}


def search_settings(tasks: Sequence[ObjectiveTask], decoding: Decoding) -> dict[str, Any]:
    """What must be the same for a search to go on in a folder, beside the model and how it is run.

    These decide what an item is scored, and with the limit which items share a batch. What a search does with the
    scores may differ from one command to the next and belongs to its plan: the criterion and its settings, how many
    layers go, which are protected, how scores are normalised.
    """
    return {"objective": [task.describe() for task in tasks], "decoding": asdict(decoding)}


_ROUNDING = 1e-9
"""A mean of equal floats may come out a little above them."""


class Uncut(NamedTuple):
    """The yardstick of one task."""

    metric: str
    """The headline metric."""
    estimate: Estimate
    chance: float | None
    floor: float
    """Subtracted from cut and uncut before they are divided: chance, or 0 where scores are taken raw."""


class Answered(NamedTuple):
    """One task's selection items and what a plan answered."""

    task: ObjectiveTask
    samples: list[Sample]
    records: list[dict[str, Any]]
    """In the order of the samples, as ``evaluate`` writes them."""


class TaskObjective:
    """Mean over tasks of (s - f) / (u - f), where s is a plan's score and u the uncut model's on the same items.

    ``raw``: f = 0, the paper's ratio (arXiv:2602.01997). ``chance``: f is the score of guessing. A metric that is not 0
    or 1 for each item, such as ROUGE, has its floor f subtracted under ``raw`` too: even nonsense scores well above 0
    there, so its raw ratio hardly moves and would not take part in the choice.

    Only selection items are asked. Each is scored once per plan and kept in the journal; the uncut model is one more
    plan. Under sampling every plan meets the same noise, because a Decoding's noise belongs to (seed, item, token).
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[ObjectiveTask],
        *,
        decoding: Decoding | None = None,
        normalise: Normalise = "raw",
        journal: SearchJournal | None = None,
        progress: Progress = silent,
    ) -> None:
        """Nothing is measured yet.

        Args:
            engine: runs the plans.
            tasks: what is asked; all count the same.
            decoding: how answers are drawn, greedy if left out.
            normalise: ``raw`` or ``chance``.
            journal: what is known and where more goes; kept in memory if left out.
            progress: told how many items are answered of those that one call of ``values`` needs.

        Raises:
            InputError: no tasks, one that is named twice or has no selection items, or an unknown ``normalise``.
        """
        if not tasks:
            raise InputError("an objective needs at least one task, such as --objective arithmetic,copy.")
        if normalise not in get_args(Normalise):
            raise unknown("normalise", normalise, get_args(Normalise))
        labels = [task.label for task in tasks]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"the objective names {label} more than once; name it once.")
        self._engine = engine
        self._tasks = tuple(tasks)
        self._decoding = decoding or Decoding()
        self._normalise = normalise
        self._journal = journal or SearchJournal()
        self._progress = progress
        model_hash = engine.describe()["model_hash"]
        self._questions = [Question.of(part.task, part.readout, model_hash, self._decoding) for part in tasks]
        self._samples = [part.task.samples("selection", part.limit) for part in tasks]
        for part, samples in zip(tasks, self._samples, strict=True):
            if not samples:
                raise InputError(f"{part.task.name} has no selection items, so no layers can be chosen by it.")
        self._ids = [tuple(sample.id for sample in samples) for samples in self._samples]

    def describe(self) -> Mapping[str, Any]:
        """What decides the values: tasks with the hash of their items, decoding, normalisation."""
        settings = search_settings(self._tasks, self._decoding)
        for part, ids in zip(settings["objective"], self._ids, strict=True):
            part |= {"num_items": len(ids), "items_hash": items_hash(ids)}
        return {**settings, "normalise": self._normalise}

    @property
    def items(self) -> dict[str, frozenset[str]]:
        """Ids of the selection items per task."""
        found: dict[str, frozenset[str]] = {}
        for part, ids in zip(self._tasks, self._ids, strict=True):
            found[part.task.name] = found.get(part.task.name, frozenset()).union(ids)
        return found

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        """The uncut model's value is 1; 0 is the floor, and a plan may fall below it.

        The sum over tasks is exactly rounded, so its value does not depend on their order.

        Raises:
            InputError: the uncut model is no better than guessing on one of the tasks.
        """
        uncut = self.uncut
        total = len(plans) * sum(map(len, self._ids))
        values = []
        done = 0
        for plan in plans:
            scores = self._scores(plan, done, total)
            parts = [(s - u.floor) / (u.estimate.value - u.floor) for s, u in zip(scores, uncut, strict=True)]
            values.append(math.fsum(parts) / len(parts))
            done += sum(map(len, self._ids))
        return values

    def scores(self, plan: CutPlan) -> list[float]:
        """The plan's score per task, not normalised."""
        return self._scores(plan, 0, sum(map(len, self._ids)))

    @property
    def num_layers(self) -> int:
        """Decoder layers of the uncut model."""
        return self._engine.num_layers

    def answers(self, plan: CutPlan, readouts: Collection[Readout]) -> list[Answered]:
        """A record per selection item of every task with one of these readouts, from the journal or else asked now."""
        wanted = [index for index, part in enumerate(self._tasks) if part.readout in readouts]
        total = sum(len(self._ids[index]) for index in wanted)
        found = []
        done = 0
        for index in wanted:
            found.append(Answered(self._tasks[index], self._samples[index], self._records(index, plan, done, total)))
            done += len(self._ids[index])
        return found

    @cached_property
    def uncut(self) -> tuple[Uncut, ...]:
        """The uncut model's score per task, measured on first use.

        Raises:
            InputError: the 95 % interval of a score reaches down to the score of guessing. Nothing can be lost there
                that could be seen, and a ratio to such a score would be noise.
        """
        plan = CutPlan(num_layers=self._engine.num_layers)
        num_items = sum(map(len, self._ids))
        done = 0
        found = []
        for index, ids in enumerate(self._ids):
            found.append(self._yardstick(index, self._records(index, plan, done, num_items)))
            done += len(ids)
        return tuple(found)

    def report(self, plan: CutPlan) -> dict[str, Any]:
        """What a selection's details say of the plan that was chosen.

        ``selected_scores`` are those that the choice was made by: the best of many noisy ones, so too high by
        construction. A score on report items is what can be expected.
        """
        rows = [
            {
                "task": part.task.name,
                "readout": part.readout,
                "metric": uncut.metric,
                "uncut": uncut.estimate.value,
                "cut": score,
                "n": uncut.estimate.n,
                "chance": uncut.chance,
                "floor": uncut.floor,
            }
            for part, uncut, score in zip(self._tasks, self.uncut, self.scores(plan), strict=True)
        ]
        return {"selected_scores": rows, SELECTION_ITEMS: record_items(self.items)}

    def _yardstick(self, index: int, records: Sequence[Mapping[str, Any]]) -> Uncut:
        part = self._tasks[index]
        metric = _headline(records[0])
        estimate = mean_interval([record["metrics"][metric] for record in records])
        estimate = estimate._replace(value=_mean(records, metric))  # to the last bit as for any other plan
        chance = part.task.chance(self._samples[index], part.readout).get(metric)
        guessing = chance or 0.0
        lowest = estimate.value if estimate.low is None else estimate.low
        if lowest <= guessing + _ROUNDING:
            interval = "" if estimate.low is None else f" ({estimate.low:.3g} to {estimate.high:.3g})"
            raise InputError(
                f"the uncut model scores {estimate.value:.3g}{interval} on {estimate.n} selection items of "
                f"{part.label}, not above guessing ({guessing:.3g}), so no loss can be seen there. Leave it out of the "
                "objective, or raise its limit."
            )
        is_share = all(record["metrics"][metric] in (0, 1) for record in records)
        return Uncut(metric, estimate, chance, 0.0 if is_share and self._normalise == "raw" else guessing)

    def _scores(self, plan: CutPlan, done: int, total: int) -> list[float]:
        scores = []
        for index, ids in enumerate(self._ids):
            scores.append(_mean(self._records(index, plan, done, total), self.uncut[index].metric))
            done += len(ids)
        return scores

    def _records(self, index: int, plan: CutPlan, done: int, total: int) -> list[dict[str, Any]]:
        """A record per item of one task, from the journal or else from the engine."""
        part = self._tasks[index]
        known = self._journal.part(self._questions[index], plan, self._ids[index])
        what = f"{part.label}, {name_of(plan)}"
        if not known.is_complete:  # evaluate would find nothing to ask, yet make intervals that nobody reads
            evaluate(
                part.task,
                self._engine,
                plan,
                readout=part.readout,
                split="selection",
                limit=part.limit,
                decoding=self._decoding,
                journal=cast("Journal", known),  # a part of one
                on_progress=lambda answered, _: self._progress(what, done + answered, total),
            )
        self._progress(what, done + len(self._ids[index]), total)
        return known.records


def selected_on(objective: Objective, plan: CutPlan) -> dict[str, Any]:
    """What a search adds to its details: the objective, and of task scores those of the plan and the items."""
    report = objective.report(plan) if isinstance(objective, TaskObjective) else {}
    return {"objective": dict(objective.describe()), **report}


def _headline(record: Mapping[str, Any]) -> str:
    return str(next(iter(record["metrics"])))


def _mean(records: Sequence[Mapping[str, Any]], metric: str) -> float:
    return math.fsum(record["metrics"][metric] for record in records) / len(records)


def name_of(plan: CutPlan) -> str:
    """The plan for people who watch a search: ``uncut``, or ``without 3,21-24``."""
    return "uncut" if plan.is_uncut else f"without {format_layers(plan.removed)}"
