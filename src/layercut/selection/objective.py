"""Task scores as an objective: the retained score of a plan, on selection items only; and on held-out ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from layercut.engine.base import Decoding, Engine
from layercut.errors import AtChance, InputError
from layercut.evidence.intervals import Estimate, clusters_of, mean_interval, plain_estimates
from layercut.evidence.means import TaskValues, mean_share_kept
from layercut.evidence.paired import compare_paired
from layercut.progress import Progress, show_nothing
from layercut.selection.answers import ObjectiveTask, SearchAnswers, race_plans_of_round
from layercut.selection.base import Objective, SearchSettings
from layercut.selection.racing import Standings
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample
from layercut.tasks.cells import Cell
from layercut.tasks.selected_items import SELECTION_ITEMS, items_hash, merge_items, record_items


def search_settings(tasks: Sequence[Cell], decoding: Decoding) -> dict[str, Any]:
    """Settings that decide the score of an item, and so must be the same for a search to continue in a folder."""
    return {"objective": [task.describe() for task in tasks], "decoding": decoding.as_dict()}


Records = Sequence[Mapping[str, Any]]
_ROUNDING = 1e-9  # a mean of equal floats may come out a little above them


class Uncut(NamedTuple):
    """The original model's score on one task."""

    metric: str
    estimate: Estimate
    chance: float | None
    floor: float  # subtracted from cut and uncut before the division: chance, or 0 for raw scores


class TaskRecords(NamedTuple):
    """One task's selection items and a plan's answers."""

    task: ObjectiveTask
    samples: list[Sample]
    records: list[dict[str, Any]]  # in the order of the samples, as ``evaluate`` writes them


class TaskObjective(Objective):
    """Mean over tasks of (s - f) / (u - f), where s is a plan's score and u the original model's on the same items.

    ``raw``: f = 0, the paper's ratio (arXiv:2602.01997). ``chance``: f is the score of guessing. A metric that is not 0
    or 1 for each item, such as ROUGE, has its floor f subtracted under ``raw`` too. Even nonsense scores well above 0
    there, so its raw ratio hardly moves and would not influence the choice.

    Only selection items are asked. Each is scored once per plan and kept in the journal; the original model is one more
    plan. Under sampling every plan gets the same noise, which depends on seed, item and token.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[ObjectiveTask],
        *,
        decoding: Decoding | None = None,
        normalise: str = "raw",
        journal: SearchJournal | None = None,
        progress: Progress = show_nothing,
        race: str = "exact",
    ) -> None:
        if not tasks:
            raise InputError("an objective needs at least one task, such as `objective` arithmetic,copy.")
        SearchSettings(normalise=normalise, race=race)
        label, count = Counter(task.label for task in tasks).most_common(1)[0]
        if count > 1:
            raise InputError(f"the objective names {label} more than once; name it once.")
        self.engine = engine
        self.parts = tuple(tasks)
        self._decoding = decoding or Decoding()
        self._normalise, self._race = normalise, race
        self._progress, self._journal = progress, journal or SearchJournal()
        self.samples = [part.task.samples("selection", part.limit) for part in tasks]
        for part, samples in zip(tasks, self.samples, strict=True):
            if not samples:
                raise InputError(f"{part.task.name} has no selection items, so no layers can be chosen by it.")
        self.known = self.answers_on(self.samples)  # every plan's answers to the selection items

    def answers_on(self, samples: Sequence[Sequence[Sample]]) -> SearchAnswers:
        """The objective's questions about other items of its tasks, in the same journal; a task may have none."""
        return SearchAnswers(
            self.parts,
            samples,
            engine=lambda: self.engine,
            model_hash=self.engine.describe()["model_hash"],
            decoding=self._decoding,
            journal=self._journal,
        )

    def describe(self) -> Mapping[str, Any]:
        settings = search_settings(self.parts, self._decoding)
        for part, ids in zip(settings["objective"], self.known.ids, strict=True):
            part |= {"num_items": len(ids), "items_hash": items_hash(ids)}
        return {**settings, "normalise": self._normalise}

    @property
    def items(self) -> dict[str, frozenset[str]]:
        return merge_items(*({part.task.name: ids} for part, ids in zip(self.parts, self.known.ids, strict=True)))

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        """Exactly rounded: the original's is 1, the floor 0. Refused where the original is no better than guessing."""
        return [self._value(scores) for scores in self.scores(plans)]

    def round(self, plans: Sequence[CutPlan]) -> Standings:
        if self._race == "off":
            return super().round(plans)
        metrics = [uncut.metric for uncut in self.uncut]
        return race_plans_of_round(self.known, plans, metrics, self._value, progress=self._progress)

    def scores(self, plans: Sequence[CutPlan]) -> list[list[float]]:
        metrics = [uncut.metric for uncut in self.uncut]  # first, so that a task at chance is refused
        cut = [plan for plan in plans if not plan.is_uncut]
        self.known.complete(range(len(self.parts)), cut, whole=False, progress=self._progress)
        return [
            [_mean(_values(self.known.part(index, plan).records, metric)) for index, metric in enumerate(metrics)]
            for plan in plans
        ]

    def answers(
        self, plan: CutPlan, readouts: Collection[Readout] | None = None, samples: Sequence[list[Sample]] | None = None
    ) -> list[TaskRecords]:
        """Whole answers to every task with one of these readouts; ``samples``: other items than the search's."""
        answers = self.known if samples is None else self.answers_on(samples)
        wanted = [index for index, part in enumerate(self.parts) if readouts is None or part.readout in readouts]
        answers.complete(wanted, [plan], whole=True, progress=self._progress)
        items = self.samples if samples is None else samples
        records = [answers.part(index, plan, whole=True).records for index in wanted]
        return [
            TaskRecords(self.parts[index], items[index], known) for index, known in zip(wanted, records, strict=True)
        ]

    @cached_property
    def uncut(self) -> tuple[Uncut, ...]:
        """The original model's score per task; refused where its 95 % interval reaches guessing."""
        whole = self.answers(CutPlan(num_layers=self.engine.num_layers))
        return tuple(self._measure_uncut(answered.task, answered.records) for answered in whole)

    def _measure_uncut(self, part: ObjectiveTask, records: Records) -> Uncut:
        metric = _headline(records)
        values = _values(records, metric)
        estimate = mean_interval(values)._replace(value=_mean(values))  # to the last bit as for other plans
        chance = part.task.split_chance("selection", part.readout).get(metric)
        guessing = chance or 0.0
        lowest = estimate.value if estimate.low is None else estimate.low
        if lowest <= guessing + _ROUNDING:
            interval = "" if estimate.low is None else f" ({estimate.low:.3g} to {estimate.high:.3g})"
            raise AtChance(
                f"the original model scores {estimate.value:.3g}{interval} on {estimate.n} selection items of "
                f"{part.label}, not above guessing ({guessing:.3g}), so no loss can be measured there. Leave this task "
                "out, or ask more of its items."
            )
        is_share = all(value in (0, 1) for value in values)
        return Uncut(metric, estimate, chance, 0.0 if is_share and self._normalise == "raw" else guessing)

    def report(self, plan: CutPlan) -> dict[str, Any]:
        """Details of the chosen plan; its scores, the best of many noisy ones, are too high by construction."""
        (scores,) = self.scores([plan])
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
            for part, uncut, score in zip(self.parts, self.uncut, scores, strict=True)
        ]
        return {"selected_scores": rows, SELECTION_ITEMS: record_items(self.items)}

    def _value(self, scores: Sequence[float]) -> float:
        """The plan's value from a score per task. Every step is monotone, which a race relies on."""
        return _mean(
            [
                (score - uncut.floor) / (uncut.estimate.value - uncut.floor)
                for score, uncut in zip(scores, self.uncut, strict=True)
            ]
        )


def selected_on(objective: Objective, plan: CutPlan) -> dict[str, Any]:
    """Details of a search: the objective, and for task scores those of the plan and the items."""
    report = objective.report(plan) if isinstance(objective, TaskObjective) else {}
    return {"objective": dict(objective.describe()), **report}


def held_out(
    objective: TaskObjective,
    plan: CutPlan,
    *,
    num_items: int | None,
    seen: Mapping[str, Collection[str]],
    seed: int = 0,
    progress: Progress = show_nothing,
) -> dict[str, Any]:
    """Score a chosen plan and the original model, on selection items and on held-out ones; JSON-able.

    The best of many noisy candidates scores too high on its selection items (the winner's curse). Held-out items come
    from the selection split, after those of the search and without ``seen``: ``num_items`` of each task, or as many as
    it had. Report items stay reserved for reports.
    """
    uncut = CutPlan(num_layers=plan.num_layers)

    def answer(samples: Sequence[Sequence[Sample]]) -> list[tuple[Records, Records]]:
        """Records of the original model and of the plan, per task; empty for a task without samples."""
        answers = objective.answers_on(samples)
        tasks = [task for task, items in enumerate(samples) if items]
        answers.complete(tasks, [uncut], whole=True, progress=progress)
        answers.complete(tasks, [plan], whole=False, progress=progress)
        return [
            (answers.part(task, uncut, whole=True).records, answers.part(task, plan).records)
            for task in range(len(samples))
        ]

    fresh = [_unseen_samples(part, num_items, seen.get(part.task.name, ())) for part in objective.parts]
    chosen, unseen = answer(objective.samples), answer(fresh)
    named = zip(objective.parts, fresh, strict=True)
    ids = merge_items(*({part.task.name: [sample.id for sample in samples]} for part, samples in named))
    rows = [
        {
            "task": part.task.name,
            "readout": part.readout,
            "metric": _headline(selected[0]),
            "selected": _compare_records(part, *selected, seed),
            "held_out": _compare_records(part, *others, seed) if others[0] else None,
        }
        for part, selected, others in zip(objective.parts, chosen, unseen, strict=True)
    ]
    value = _value_held_out(objective, plan, unseen, seed)
    return {"items": record_items(ids), "rows": rows, "objective": value, "seed": seed}


def _unseen_samples(part: ObjectiveTask, num_items: int | None, seen: Collection[str]) -> list[Sample]:
    """Selection items of a task that the choice does not rest on, in the task's order; none where it used all."""
    if part.limit is None:
        return []
    wanted = part.limit if num_items is None else num_items
    # Another readout of the task, or the start of a search, may have used more items than this limit.
    seen = {*seen, *(sample.id for sample in part.task.samples("selection", part.limit))}
    more = part.task.samples("selection", len(seen) + wanted)
    return [sample for sample in more if sample.id not in seen][:wanted]


def _compare_records(part: ObjectiveTask, uncut: Records, cut: Records, seed: int) -> dict[str, Any]:
    metric = _headline(uncut)
    chance = part.task.split_chance("selection", part.readout).get(metric)
    before, after = _values(uncut, metric), _values(cut, metric)
    compared = compare_paired(before, after, chance=chance, seed=seed, clusters=clusters_of(uncut))
    shown = plain_estimates(compared._asdict())
    for name in ("lost", "gained"):
        if shown[name] is None:
            del shown[name]
    return {"chance": chance, "n": len(uncut), **shown}


def _value_held_out(
    objective: TaskObjective, plan: CutPlan, unseen: Sequence[tuple[Records, Records]], seed: int
) -> dict[str, Any]:
    try:
        (selected,) = objective.values([plan])
    except InputError as error:  # a task at chance, which criteria such as trace_damage accept
        return {"selected": None, "held_out": None, "refused": str(error)}
    empty = [part.label for part, (before, _) in zip(objective.parts, unseen, strict=True) if not before]
    if empty:
        return {"selected": selected, "held_out": None, "refused": f"no items of {', '.join(empty)} were held out"}
    values = [
        TaskValues(
            part.label, _values(before, whole.metric), _values(after, whole.metric), whole.floor, clusters_of(before)
        )
        for part, whole, (before, after) in zip(objective.parts, objective.uncut, unseen, strict=True)
    ]
    mean = mean_share_kept(values, seed=seed)
    estimate = None if mean.estimate is None else mean.estimate._asdict()
    return {"selected": selected, "held_out": estimate, "refused": mean.refused}


def _headline(records: Records) -> str:
    return str(next(iter(records[0]["metrics"])))


def _values(records: Records, metric: str) -> list[float]:
    return [float(record["metrics"][metric]) for record in records]


def _mean(values: Sequence[float]) -> float:
    """Exactly rounded, so that the order of the values does not matter."""
    return math.fsum(values) / len(values)
