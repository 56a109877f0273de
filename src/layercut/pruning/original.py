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
from layercut.pruning.run import PruneRun
from layercut.pruning.settings import NONE
from layercut.pruning.verdict import lacking
from layercut.runs.prune import PathStep
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import tell_shortfalls


def measure_original(run: PruneRun, *, strict: bool) -> None:
    """Score the original model on selection items, and set aside tasks on which it is at chance.

    Raises:
        InputError: it is at chance on all of them, or report items are too few and the run is strict.
    """
    notes = run.notes
    run.progress.begin("original", "scoring selection items")
    if "selection_items" not in notes:
        number = min(run.settings.items or SELECTION_ITEMS, SELECTION_ITEMS)
        if run.settings.seconds is not None:
            number = _number_selection_items(run, run.settings.seconds)
        notes.put("selection_items", number)
    if "ignored" not in notes:
        notes.put("ignored", _tasks_at_chance(run, notes["selection_items"]))
    scores = ", ".join(f"{task.label} {task.score:.0%}" for task in yardsticks_of(run))
    run.progress.end("original", note=scores)
    if "announced" not in notes:
        num_items = count_report_items(run, run.num_plans + 1, run.settings.seconds or 0)
        counts = {part.task.name: len(part.task.samples("selection", part.limit)) for part in run.parts}
        same = len(set(counts.values())) == 1
        by_task = {"each task": max(counts.values())} if same else counts
        listed = ", ".join(f"{number} selection items of {name}" for name, number in by_task.items())
        run.say(f"{listed} choose the layers")
        if notes.get("general") and (run.sizes or run.settings.heal != NONE):
            number = sum(part.limit or 0 for part in general_tasks())
            run.say(
                f"the original model also answers {number} general requests, which channels and healing follow so "
                "that other abilities stay; `goal_alone` leaves them out"
            )
        announce_resolution(run, num_items, strict=strict)
        notes.put("announced", num_items)


def _tasks_at_chance(run: PruneRun, limit: int) -> list[dict[str, str]]:
    """Ask the original model all selection items, and list the tasks on which it is not above chance."""
    ignored = []
    if run.settings.items is not None:
        tell_shortfalls(((part.task, "selection", limit) for part in run.asked), run.say)
    for part in run.asked:
        try:
            _answer_task(run, replace(part, limit=min(limit, FEWEST)), is_first=True)
            _answer_task(run, replace(part, limit=limit))
        except AtChance as error:
            ignored.append({"task": part.task.name, "readout": part.readout, "reason": str(error)})
            run.say(f"{part.label} decides nothing: {error}")
    if len(ignored) == len(run.asked):
        raise InputError(
            "the original model is not above guessing on any task of this goal, so there is nothing to keep: "
            + "; ".join(task["reason"] for task in ignored)
        )
    return ignored


def number_report_items(run: PruneRun, num_models: int) -> None:
    """Decide how many report items of each task are asked, once."""
    if "report_items" not in run.notes:
        left = (run.settings.seconds or 0) - sum(run.notes.seconds.values())
        number = count_report_items(run, num_models, max(left, 0) / CONFIRM * 0.8)
        run.notes.put("report_items", number)
        announce_resolution(run, number)


def announce_resolution(run: PruneRun, num_items: dict[str, int], *, strict: bool = False) -> None:
    """Say what this many report items can show, and what to do where that is too little.

    Raises:
        InputError: it is too little, and the run is strict.
    """
    text, is_enough = resolution(yardsticks_of(run), num_items, run.settings.keep)
    if not is_enough:
        text += f"; {_remedy(run, num_items)}"
        if strict and "path" not in run.notes:
            raise InputError(f"{text}. Stopped, because `strict` was asked for.")
    run.notes.put("resolution", text)
    run.say(text)


def _remedy(run: PruneRun, num_items: dict[str, int]) -> str:
    """The remedy for too few items: more of them, if the task has more; more rows of a user's own file."""
    keep = run.settings.keep
    needed = {task.label: items_for(task, keep, 1.0, MANY * num_items[task.label]) for task in yardsticks_of(run)}
    known = {label: number for label, number in needed.items() if number is not None}
    if len(known) < len(needed):
        return "ask for a lower `keep`"
    ask = "give more `time`" if run.settings.time else f"give `items` {max(known.values())}"
    return ", ".join(lacking(run.parts, known) or [ask]) + ", or ask for a lower `keep`"


def _number_selection_items(run: PruneRun, seconds: float) -> int:
    """Selection items that fit into the time, by the speed of the first answers."""

    def seconds_of_an_item(limit: int) -> float:
        for part in run.asked:
            with suppress(AtChance):
                _answer_task(run, replace(part, limit=limit), is_first=True)
        return _seconds_per_item(run, run.asked)

    per_item = seconds_of_an_item(FEWEST)
    # Rows of a batch share the reading of weights, so a larger batch tells the speed where the first few took little.
    more = min(int(FIRST * seconds / max(per_item, 1e-9)), run.model.settings.batch_size, SELECTION_ITEMS)
    if more >= 2 * FEWEST:
        per_item = seconds_of_an_item(more)
    return selection_items_in(seconds, per_item, run.num_plans)


def _answer_task(run: PruneRun, part: ObjectiveTask, *, is_first: bool = False) -> None:
    """Have the original model answer one task, and note how long an item took.

    Raises:
        AtChance: it is not above chance there; of the first few items, all of its answers score 0.
    """
    objective = TaskObjective(
        run.model.engine,
        [part],
        decoding=run.decoding,
        normalise="chance",
        journal=run.journal,
        progress=run.progress,
    )
    uncut = CutPlan(num_layers=run.model.num_layers)
    answers = objective.answers_on(objective.samples)
    known = len(answers.part(0, uncut, whole=True).records)
    began = time.monotonic()
    answers.complete([0], [uncut], whole=True, progress=run.progress)
    asked = len(objective.samples[0]) - known
    timed: dict[str, int] = run.notes.get("items_timed", {})
    if asked and asked >= timed.get(part.label, 0):
        speeds = run.notes.get("seconds_per_item", {})
        run.notes.put("seconds_per_item", speeds | {part.label: (time.monotonic() - began) / asked})
        run.notes.put("items_timed", timed | {part.label: asked})
    if not is_first:
        _ = objective.uncut
    elif not any(next(iter(row["metrics"].values())) > 0 for row in answers.part(0, uncut, whole=True).records):
        raise AtChance(
            f"the original model answers none of the first {len(objective.samples[0])} selection items of "
            f"{part.label} right, so nothing can be lost there"
        )


def _seconds_per_item(run: PruneRun, parts: Sequence[ObjectiveTask]) -> float:
    """Seconds for one item of each task: of the last plan that was scored, or else of the original model."""
    known: dict[str, float] = run.notes.get("seconds_per_item", {})
    return float(run.notes.get("pace", sum(known.get(part.label, 0.0) for part in parts)))


def yardsticks_of(run: PruneRun) -> list[Yardstick]:
    """Score and chance of each task on selection items, with the correlation that the first plan shows there."""
    notes = run.notes
    if "yardsticks" not in notes:
        scores = [
            [part.label, score.estimate.value, score.chance or 0.0]
            for part, score in zip(run.path.parts, run.path.objective.uncut, strict=True)
        ]
        notes.put("yardsticks", scores)
    correlations: list[float | None] = [None] * len(notes["yardsticks"])
    if "path_ended" in notes:
        step = PathStep.model_validate(notes["path"][0 if run.settings.remove is None else -1])
        correlations = [task.correlation for task in step.chosen.kept]
    return [
        Yardstick(*score, *([] if correlation is None else [correlation]))
        for score, correlation in zip(notes["yardsticks"], correlations, strict=True)
    ]


def count_report_items(run: PruneRun, num_models: int, seconds: float) -> dict[str, int]:
    """Report items of each task: as many as were asked for, as fit into the time, or as the goal needs.

    Raises:
        InputError: a task has none.
    """
    counts = {}
    for part, task in zip(run.parts, yardsticks_of(run), strict=True):
        number = run.settings.items
        if number is None and run.settings.seconds is not None:
            number = report_items_in(CONFIRM * seconds, _seconds_per_item(run, run.parts), num_models)
        elif number is None:
            number = items_for(task, run.settings.keep) or MOST
        counts[part.label] = len(part.task.samples("report", number))
        if not counts[part.label]:
            raise InputError(f"{part.task.name} has no report items, so nothing can be shown by it; give more rows.")
    return counts
