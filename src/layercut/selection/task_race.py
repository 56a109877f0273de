"""A round of a search by task scores, raced: plans answer heats of items, and stop when they cannot win."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.selection.answers import ANSWERS, Answers
from layercut.selection.base import Progress
from layercut.selection.racing import Standings, race

if TYPE_CHECKING:
    from layercut.surgery.plan import CutPlan


class TaskRace:
    """The plans of one round, and what is still to be asked of them.

    Answers that the journal holds are not asked again. They count when the race gets to them and not before, so that a
    round comes out the same whatever else was measured in the folder.
    """

    def __init__(self, answers: Answers, plans: Sequence[CutPlan], metrics: Sequence[str], progress: Progress) -> None:
        """Nothing is asked yet; ``metrics`` names the headline of each task."""
        self._answers = answers
        self._plans = plans
        self._metrics = metrics
        self._progress = progress
        self._place_of = {plan.key: place for place, plan in enumerate(plans)}
        assert len(self._place_of) == len(plans), "two candidates of a round that remove the same layers"

    def run(self, combine: Callable[[Sequence[float]], float], *, error: float, is_binary: Sequence[bool]) -> Standings:
        """Race; see ``racing.race``."""
        sizes = [[len(heat) for heat in of_task] for of_task in self._answers.heats]
        return race(
            self._ask,
            len(self._plans),
            sizes,
            combine,
            groups=self._answers.groups,
            error=error,
            is_binary=is_binary,
            on_progress=lambda done, total: self._progress(ANSWERS, done, total),
        )

    def _ask(
        self,
        group: Sequence[int],
        heat: int,
        places: Sequence[int],
        wanted: Callable[[int], bool],
        learn: Callable[[int, int, Sequence[float]], None],
    ) -> None:
        plans = [self._plans[place] for place in places]
        items = {sample.id for sample in self._answers.heats[group[0]][heat]}

        def learned(task: int, plan: CutPlan, records: Sequence[Mapping[str, Any]]) -> None:
            learn(task, self._place_of[plan.key], [self._metric(task, record) for record in records])

        for task in group:
            for plan in plans:
                known = self._answers.part(task, plan).records
                learned(task, plan, [record for record in known if record["id"] in items])
        self._answers.ask(
            group, heat, plans, whole=False, wanted=lambda plan: wanted(self._place_of[plan.key]), learn=learned
        )

    def _metric(self, task: int, record: Mapping[str, Any]) -> float:
        value = float(record["metrics"][self._metrics[task]])
        if not 0 <= value <= 1:
            raise InputError(
                f"{self._metrics[task]} of item {record['id']} is {value}, and racing needs metrics from 0 to 1; use "
                "--race off."
            )
        return value
