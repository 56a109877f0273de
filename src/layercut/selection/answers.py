"""What plans answer to a search's items: from the journal, or asked heat by heat, all plans of a heat at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import Decoding, Engine, distinct
from layercut.selection.base import Progress, silent
from layercut.selection.heats import heats
from layercut.selection.search_journal import JournalPart, Question, SearchJournal
from layercut.tasks.base import GENERATED, Readout, Sample
from layercut.tasks.evaluate import Records, ask_under, share_prompt

if TYPE_CHECKING:
    from layercut.selection.objective import ObjectiveTask
    from layercut.surgery.plan import CutPlan

Learn = Callable[[int, "CutPlan", Sequence[Mapping[str, Any]]], None]
"""Told of new records: the task's place, the plan, the records."""
ANSWERS = "answers"
"""What is shown while items are answered."""


class Counted(NamedTuple):
    """Numbers of answers."""

    num_answers: int
    num_close: int
    """Of them, those with a token whose runner-up was as likely to within one rounding of the model's dtype."""


class Answers:
    """The items of some tasks, and every plan's answers to them. Tasks are named by their places in the list."""

    def __init__(
        self,
        tasks: Sequence[ObjectiveTask],
        samples: Sequence[Sequence[Sample]],
        *,
        engine: Callable[[], Engine],
        model_hash: str,
        decoding: Decoding,
        journal: SearchJournal,
    ) -> None:
        """Nothing is asked yet.

        Args:
            tasks: what is asked.
            samples: of each task.
            engine: gives the engine; called only if something has to be asked.
            model_hash: of the model that it runs.
            decoding: how answers are drawn; its seed also decides the order of the items.
            journal: what is known and where more goes.
        """
        self._tasks = tasks
        self._engine = engine
        self._decoding = decoding
        self._journal = journal
        self._questions = [Question.of(part.task, part.readout, model_hash, decoding) for part in tasks]
        self.ids = [tuple(sample.id for sample in of_task) for of_task in samples]
        self.heats = [heats(of_task, decoding.seed) for of_task in samples]
        self.groups = _groups(tasks, samples)
        """Places of tasks that are asked together: readouts of the same items that share their prompts."""
        self._looked_at: dict[tuple[int, str], CutPlan] = {}

    def part(self, task: int, plan: CutPlan, *, whole: bool = False) -> JournalPart:
        """What is known of a plan's answers to a task; with ``whole`` only those that did not end early."""
        self._looked_at[task, plan.key] = plan
        return self._journal.part(self._questions[task], plan, self.ids[task], whole=whole)

    def count(self) -> Counted:
        """Answers of all plans that were looked at, and how many of them hang on a token that is a close call."""
        parts = [self.part(task, plan) for (task, _), plan in list(self._looked_at.items())]
        records = [record for part in parts for record in part.records]
        return Counted(len(records), sum(bool(record.get("num_close")) for record in records))

    def ask(
        self,
        group: Sequence[int],
        heat: int,
        plans: Sequence[CutPlan],
        *,
        whole: bool,
        wanted: Callable[[CutPlan], bool] = lambda plan: True,
        learn: Learn = lambda task, plan, records: None,
    ) -> None:
        """Have plans answer one heat of a group of tasks, in one call of the engine, as far as they are ``wanted``."""
        task_of = {self._tasks[task].readout: task for task in group}
        parts: dict[Readout, Sequence[Records]] = {
            readout: [self.part(task, plan, whole=whole) for plan in plans] for readout, task in task_of.items()
        }
        samples = self.heats[group[0]][heat]
        known = [{record["id"] for record in part.records} for of_plans in parts.values() for part in of_plans]
        if all(sample.id in ids for ids in known for sample in samples):
            return
        ask_under(
            self._tasks[group[0]].task,
            self._engine(),
            plans,
            samples,
            parts,
            decoding=self._decoding,
            early=not whole,
            wanted=lambda plan, item: wanted(plan),
            on_answers=lambda plan, readout, records: learn(task_of[readout], plan, records),
        )

    def complete(
        self, tasks: Collection[int], plans: Sequence[CutPlan], *, whole: bool, progress: Progress = silent
    ) -> None:
        """Have plans answer all items of some tasks, and of those that are asked together with them.

        ``progress`` is told how many answers there are, and will be.
        """
        plans = distinct(plans)
        groups = [group for group in self.groups if any(task in tasks for task in group)]
        tasks = [task for group in groups for task in group]
        total = len(plans) * sum(len(self.ids[task]) for task in tasks)
        done = sum(len(self.part(task, plan, whole=whole).records) for task in tasks for plan in plans)

        def learn(task: int, plan: CutPlan, records: Sequence[Mapping[str, Any]]) -> None:
            nonlocal done
            done += len(records)
            progress(ANSWERS, done, total)

        progress(ANSWERS, done, total)
        for group in groups:
            for heat in range(len(self.heats[group[0]])):
                self.ask(group, heat, plans, whole=whole, learn=learn)


def _groups(tasks: Sequence[ObjectiveTask], samples: Sequence[Sequence[Sample]]) -> list[tuple[int, ...]]:
    """Each task, with the first later one that reads the same items off the same prompts in the other way."""
    ids = [[sample.id for sample in items] for items in samples]
    groups: list[tuple[int, ...]] = []
    for place, (part, items) in enumerate(zip(tasks, samples, strict=True)):
        if any(place in group for group in groups):
            continue
        partner = next(
            (
                other
                for other in range(place + 1, len(tasks))
                if not any(other in group for group in groups)
                and (tasks[other].readout in GENERATED) != (part.readout in GENERATED)
                and tasks[other].task.name == part.task.name
                and tasks[other].task.settings() == part.task.settings()
                and ids[other] == ids[place]
                and all(share_prompt(part.task, one, (part.readout, tasks[other].readout)) for one in items[:1])
            ),
            None,
        )
        groups.append((place,) if partner is None else (place, partner))
    return groups
