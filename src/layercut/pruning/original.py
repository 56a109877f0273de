"""The original model on selection items: what it can do, how long an item takes, and how many items that allows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from layercut.errors import AtChance, InputError
from layercut.evidence.sample_size import MANY
from layercut.pruning.budget import (
    CONFIRM,
    FEWEST,
    FIRST,
    MOST,
    SELECTION_ITEMS,
    Yardstick,
    general_tasks,
    items_for,
    report_items_in,
    resolution,
    selection_items_in,
)
from layercut.pruning.context import PruneContext
from layercut.pruning.path import PlanPath
from layercut.pruning.settings import LAYER, NONE
from layercut.pruning.verdict import lacking
from layercut.runs.prune import PathStep
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.surgery.plan import CutPlan
from layercut.tasks.reported import tell_shortfalls


class OriginalModel:
    """Scores of the original model, which say what can be lost and what can be shown."""

    def __init__(self, context: PruneContext) -> None:
        self._context = context
        self._model, self._settings, self._state = context.model, context.settings, context.state
        self._progress, self._say = context.progress, context.say
        self._path_made: PlanPath | None = None

    def measure(self) -> None:
        """The original model on selection items; sets aside tasks on which it is at chance."""
        state, progress = self._state, self._progress
        progress.begin("original", "scoring selection items")
        if "selection_items" not in state:
            number = min(self._settings.items or SELECTION_ITEMS, SELECTION_ITEMS)
            if (seconds := self._settings.seconds) is not None:
                number = self._first_answers(seconds)
            state.put("selection_items", number)
        if "ignored" not in state:
            limit, ignored = state["selection_items"], []
            if self._settings.items is not None:
                tell_shortfalls([replace(part, limit=limit) for part in self._context.asked], "selection", self._say)
            for part in self._context.asked:
                try:
                    self._answer(replace(part, limit=min(limit, FEWEST)), is_first=True)
                    self._answer(replace(part, limit=limit))
                except AtChance as error:
                    ignored.append({"task": part.task.name, "readout": part.readout, "reason": str(error)})
                    self._say(f"{part.label} decides nothing: {error}")
            if len(ignored) == len(self._context.asked):
                raise InputError(
                    "the original model is not above guessing on any task of this goal, so there is nothing to keep: "
                    + "; ".join(one["reason"] for one in ignored)
                )
            state.put("ignored", ignored)
        scores = ", ".join(f"{one.label} {one.score:.0%}" for one in self.yardsticks)
        progress.end("original", note=scores)
        if "announced" not in state:
            num_items = self.num_report(self._context.max_depth + 1, self._settings.seconds or 0)
            counts = {one.task.name: len(one.task.samples("selection", one.limit)) for one in self.parts}
            same = len(set(counts.values())) == 1
            given = {"each task": max(counts.values())} if same else counts
            listed = ", ".join(f"{number} selection items of {name}" for name, number in given.items())
            self._say(f"{listed} choose the layers")
            if state.get("general") and (self._context.units != LAYER or self._settings.heal != NONE):
                number = sum(part.limit or 0 for part in general_tasks())
                self._say(
                    f"the original model also answers {number} general requests, which channels and healing follow so "
                    "that other abilities stay; `goal_alone` leaves them out"
                )
            self.announce(num_items)
            state.put("announced", num_items)

    def announce(self, num_items: dict[str, int]) -> None:
        """Say what this many report items can show, and what to do where that is too little.

        Raises:
            InputError: it is too little, and the run is strict.
        """
        keep = self._settings.keep
        found = resolution(self.yardsticks, num_items, keep)
        text = found.text
        if not found.enough:
            text += f"; {self._remedy(num_items)}"
            if self._context.strict and "path" not in self._state:
                raise InputError(f"{text}. Stopped, because `strict` was asked for.")
        self._state.put("resolution", text)
        self._say(text)

    def _remedy(self, num_items: dict[str, int]) -> str:
        """The remedy for too few items: more of them, if the task has more; more rows of a user's own file."""
        keep = self._settings.keep
        needed = {one.label: items_for(one, keep, 1.0, MANY * num_items[one.label]) for one in self.yardsticks}
        known = {label: number for label, number in needed.items() if number is not None}
        if len(known) < len(needed):
            return "ask for a lower `keep`"
        ask = "give more `time`" if self._settings.time else f"give `items` {max(known.values())}"
        return ", ".join(lacking(self.parts, known) or [ask]) + ", or ask for a lower `keep`"

    def _first_answers(self, seconds: float) -> int:
        """Selection items that fit into the time, by the speed of the first answers.

        Rows of a batch share the reading of weights, so where the first few take little of the time, a larger batch
        tells the speed.
        """

        def seconds_of_an_item(limit: int) -> float:
            for part in self._context.asked:
                with suppress(AtChance):
                    self._answer(replace(part, limit=limit), is_first=True)
            return self._per_item(self._context.asked)

        per_item = seconds_of_an_item(FEWEST)
        more = min(int(FIRST * seconds / max(per_item, 1e-9)), self._model.settings.batch_size, SELECTION_ITEMS)
        if more >= 2 * FEWEST:
            per_item = seconds_of_an_item(more)
        return selection_items_in(seconds, per_item, self._context.max_depth)

    def _answer(self, part: ObjectiveTask, *, is_first: bool = False) -> None:
        """The original model's answers to one task, and how long each took.

        Raises:
            AtChance: it is not above chance there; of the first few items, all of its answers score 0.
        """
        objective = TaskObjective(
            self._model.engine,
            [part],
            decoding=self._context.decoding,
            normalise="chance",
            journal=self._context.journal,
            progress=self._progress,
        )
        uncut = CutPlan(num_layers=self._model.num_layers)
        answers = objective.answers_on(objective.samples)
        known = len(answers.part(0, uncut, whole=True).records)
        began = time.monotonic()
        answers.complete([0], [uncut], whole=True, progress=self._progress)
        asked = len(objective.samples[0]) - known
        timed: dict[str, int] = self._state.get("items_timed", {})
        if asked and asked >= timed.get(part.label, 0):
            speeds = self._state.get("seconds_per_item", {})
            self._state.put("seconds_per_item", speeds | {part.label: (time.monotonic() - began) / asked})
            self._state.put("items_timed", timed | {part.label: asked})
        if not is_first:
            _ = objective.uncut
        elif not any(next(iter(one["metrics"].values())) > 0 for one in answers.part(0, uncut, whole=True).records):
            raise AtChance(
                f"the original model answers none of the first {len(objective.samples[0])} selection items of "
                f"{part.label} right, so nothing can be lost there"
            )

    @property
    def parts(self) -> list[ObjectiveTask]:
        """The tasks that decide, with the number of their selection items."""
        ignored = {(one["task"], one["readout"]) for one in self._state["ignored"]}
        limit = self._state["selection_items"]
        return [replace(one, limit=limit) for one in self._context.asked if (one.task.name, one.readout) not in ignored]

    def _per_item(self, parts: Sequence[ObjectiveTask]) -> float:
        """Seconds for one item of each task: of the last plan that was scored, or else of the original model."""
        known: dict[str, float] = self._state.get("seconds_per_item", {})
        return float(self._state.get("pace", sum(known.get(part.label, 0.0) for part in parts)))

    @property
    def yardsticks(self) -> list[Yardstick]:
        """Score and chance of each task on selection items, with the correlation that the first plan shows there."""
        if "yardsticks" not in self._state:
            found = [
                [part.label, one.estimate.value, one.chance or 0.0]
                for part, one in zip(self.path.parts, self.path.objective.uncut, strict=True)
            ]
            self._state.put("yardsticks", found)
        shown: list[float | None] = [None] * len(self._state["yardsticks"])
        if "path_ended" in self._state:
            step = PathStep.model_validate(self._state["path"][0 if self._settings.remove is None else -1])
            shown = [one.correlation for one in step.chosen.kept]
        return [
            Yardstick(*one, *([] if found is None else [found]))
            for one, found in zip(self._state["yardsticks"], shown, strict=True)
        ]

    def num_report(self, num_models: int, seconds: float) -> dict[str, int]:
        """Report items of each task: as many as were asked for, as fit into the time, or as the goal needs."""
        found = {}
        for part, task in zip(self.parts, self.yardsticks, strict=True):
            number = self._settings.items
            if number is None and self._settings.seconds is not None:
                number = report_items_in(CONFIRM * seconds, self._per_item(self.parts), num_models)
            elif number is None:
                number = items_for(task, self._settings.keep) or MOST
            found[part.label] = len(part.task.samples("report", number))
            if not found[part.label]:
                raise InputError(
                    f"{part.task.name} has no report items, so nothing can be shown by it; give more rows."
                )
        return found

    @property
    def path(self) -> PlanPath:
        """The search over this model and the tasks that decide."""
        if self._path_made is None:
            self._path_made = PlanPath(
                self._model.engine,
                self.parts,
                decoding=self._context.decoding,
                journal=self._context.journal,
                progress=self._progress,
                general=general_tasks() if self._state.get("general") else (),
            )
        return self._path_made

    def release(self) -> None:
        """Let the weights go, and what was built on them."""
        self._path_made = None
        self._model.release()
