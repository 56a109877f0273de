"""One run of prune: what its stages share, the original model on selection items, and the number of report items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import AtChance, InputError
from layercut.evidence.sample_size import MANY
from layercut.healing.fold import last_projection, norm_gain, run_up_to_layer
from layercut.healing.seam import PROJECTION
from layercut.progress.bars import RunProgress
from layercut.pruning.budget import FEWEST, MOST, Yardstick, describe_power, items_for
from layercut.pruning.path import PlanPath
from layercut.pruning.settings import NONE, SEAM, Profile, PruneSettings
from layercut.pruning.speed import Sizes
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PathStep
from layercut.runs.records import Notes
from layercut.selection.answers import ObjectiveTask
from layercut.selection.goal import GoalTasks, general_tasks
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers
from layercut.tasks.own_file import OwnFile
from layercut.tasks.selected_items import tell_shortfalls

_SMALL = 1_000_000_000  # parameters up to which the original model stays in memory beside another
_PROBED = 16  # tokens on which it is measured how a layer adds what its MLP gives


@dataclass
class PruneRun:
    """What was asked for, what is known so far, and where progress goes."""

    store: RunFolder
    original: ModelHandle
    model: ModelHandle  # the one that is pruned: the original, or the original without tokens
    settings: PruneSettings
    goal: GoalTasks
    asked: tuple[ObjectiveTask, ...]  # the tasks of the goal, each under each of its readouts, on selection items
    sizes: Sizes
    shares: tuple[float, ...]  # of the bytes to remove, from the least on
    profile: Profile  # how models are timed
    seed: int
    isolation: str | None
    journal: SearchJournal  # answers to selection items
    progress: RunProgress
    console: Console
    say: Callable[[str], None]
    detail: Callable[[str], None]  # prints what ``--verbose`` adds

    @property
    def folder(self) -> Path:
        return self.store.path

    @property
    def notes(self) -> Notes:
        """What was decided. It is never decided again."""
        return self.store.notes

    @property
    def decoding(self) -> Decoding:
        return Decoding(seed=self.seed)

    @property
    def parts(self) -> list[ObjectiveTask]:
        """The tasks that decide."""
        ignored = {(row["task"], row["readout"]) for row in self.notes["ignored"]}
        return [part for part in self.asked if (part.task.name, part.readout) not in ignored]

    @property
    def asks_general(self) -> bool:
        """True if general requests choose channels and heal, with the goal's tasks."""
        return not self.settings.goal_alone and self.model.has_chat_template

    @cached_property
    def path(self) -> PlanPath:
        """The search over the original model and the tasks that decide."""
        return PlanPath(
            self.model.engine,
            self.parts,
            decoding=self.decoding,
            journal=self.journal,
            progress=self.progress,
            general=general_tasks() if self.asks_general else (),
        )

    @cached_property
    def seam(self) -> str:
        """The seam that the model takes: the last matrix of every MLP, or a map where layers alone are removed.

        Raises:
            InputError: it does something with what an MLP gives that no seam is folded into.
        """
        model = self.model.loaded.model
        layer = decoder_layers(model)[0]
        ids_1T = torch.arange(_PROBED, device=model.device)[None]
        norm_gain(layer, lambda: run_up_to_layer(layer, model, ids_1T))
        if self.sizes.mlp:
            last_projection(layer)
            return PROJECTION
        return "linear"

    @cached_property
    def takes_seams(self) -> bool:
        """True if a seam folds into models of this family; says why not."""
        try:
            return bool(self.seam)
        except InputError as error:
            self.say(f"not healed by a seam: {error}")
            return False

    def handle_of(self, checkpoint: Path) -> ModelHandle:
        """A checkpoint, loaded as the original model is."""
        return ModelHandle(self.model.settings.replace(model=str(checkpoint), revision=None))

    def release(self) -> None:
        """Let the weights of the original model go, with and without tokens, and what was built on them."""
        vars(self).pop("path", None)
        self.model.release()
        self.original.release()

    def release_if_large(self) -> None:
        """Let the original model go before another is loaded, unless it is so small that it is not read again."""
        if self.model.num_parameters(self.model.plan()) > _SMALL:
            self.release()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage, and note the time that it takes."""
        self.progress.step(name)
        with self.notes.stage(name):
            yield


def removal_of(plan: CutPlan) -> dict[str, Any]:
    """Removed layers and channels of a plan, as results hold them."""
    mlp = plan.channels.share if plan.channels else 0.0
    return {"depth": len(plan.removed), "removed": plan.removed, "mlp": mlp}


def healed_checkpoint(run: PruneRun, plan: CutPlan) -> Path:
    """Folder of the healed model of a plan."""
    return run.folder / "healing" / f"plan-{plan.key}" / SEAM / "checkpoint"


def measure_original(run: PruneRun) -> None:
    """Score the original model on selection items, and set aside tasks on which it is at chance.

    Raises:
        InputError: it is at chance on all of them.
    """
    notes = run.notes
    run.progress.begin("original", "scoring selection items")
    if "ignored" not in notes:
        notes.put("ignored", _tasks_at_chance(run))
    run.progress.end("original", note=", ".join(f"{task.label} {task.score:.0%}" for task in yardsticks_of(run)))
    if "announced" in notes:
        return
    counts = {part.task.name: len(part.task.samples("selection", part.limit)) for part in run.parts}
    by_task = {"each task": max(counts.values())} if len(set(counts.values())) == 1 else counts
    listed = ", ".join(f"{number} selection items of {name}" for name, number in by_task.items())
    run.detail(f"{listed} choose the layers")
    if run.asks_general and (run.sizes.mlp or run.settings.heal != NONE):
        number = sum(part.limit or 0 for part in general_tasks())
        run.detail(
            f"the original model also answers {number} general requests, which channels and healing follow so that "
            "other abilities stay; `goal_alone` leaves them out"
        )
    notes.put("announced", count_report_items(run))


def _tasks_at_chance(run: PruneRun) -> list[dict[str, str]]:
    """Ask the original model all selection items, and list the tasks on which it is not above chance.

    A task whose first few answers all score 0 is not asked further.
    """
    ignored = []
    if run.settings.items is not None:
        tell_shortfalls(((part.task, "selection", part.limit) for part in run.asked), run.say)
    for part in run.asked:
        few, all_items = (
            TaskObjective(
                run.model.engine,
                [replace(part, limit=limit)],
                decoding=run.decoding,
                normalise="chance",
                journal=run.journal,
                progress=run.progress,
            )
            for limit in (min(part.limit or FEWEST, FEWEST), part.limit)
        )
        ((_, samples, records),) = few.answers(CutPlan(num_layers=run.model.num_layers))
        try:
            if not any(next(iter(record["metrics"].values())) > 0 for record in records):
                raise AtChance(
                    f"the original model answers none of the first {len(samples)} selection items of {part.label} "
                    "right, so nothing can be lost there"
                )
            _ = all_items.uncut
        except AtChance as error:
            ignored.append({"task": part.task.name, "readout": part.readout, "reason": str(error)})
            run.detail(f"{part.label} decides nothing: {error}")
    if len(ignored) == len(run.asked):
        raise InputError(
            "the original model is not above guessing on any task of this goal, so there is nothing to keep: "
            + "; ".join(task["reason"] for task in ignored)
        )
    return ignored


def count_report_items(run: PruneRun) -> dict[str, int]:
    """Report items of each task: as many as were asked for, or as the goal needs. Says what they can show, and what to
    do where that is too little: ask for more items if the task has more, or give more rows of a user's own file.

    Raises:
        InputError: a task has none.
    """
    tasks, keep, counts = yardsticks_of(run), run.settings.keep, dict[str, int]()
    for part, task in zip(run.parts, tasks, strict=True):
        number = run.settings.items or items_for(task, keep) or MOST
        counts[part.label] = len(part.task.samples("report", number))
        if not counts[part.label]:
            raise InputError(f"{part.task.name} has no report items, so nothing can be shown by it; give more rows.")
    text, is_enough = describe_power(tasks, counts, keep)
    if not is_enough:
        needed = {task.label: items_for(task, keep, 1.0, MANY * counts[task.label]) for task in tasks}
        known = {label: number for label, number in needed.items() if number is not None}
        ways = lacking_items(run.parts, known) or [f"give `items` {max(known.values())}"] if known == needed else []
        text += f"; {', '.join(ways)}, or ask for a lower `keep`" if ways else "; ask for a lower `keep`"
    ignored = ", ".join(f"{row['task']} ({row['readout']})" for row in run.notes["ignored"])
    if ignored and "announced" not in run.notes:
        verb = "decides" if len(run.notes["ignored"]) == 1 else "decide"
        run.say(f"{ignored} {verb} nothing, as the original model is not above guessing there; {text}")
    elif run.notes.get("resolution") != text:
        run.say(text)
    run.notes.put("resolution", text)
    return counts


def lacking_items(parts: Sequence[ObjectiveTask], needed: Mapping[str, int]) -> list[str]:
    """For each task that has fewer report items than are needed, what its owner can do."""
    lines = []
    for part in parts:
        more = needed[part.label] - (there := len(part.task.samples("report", needed[part.label])))
        if more > 0 and isinstance(part.task, OwnFile):
            lines.append(f"add about {2 * more:,} rows to {part.task.name} (half of them judge)")
        elif more > 0:
            lines.append(f"{part.task.name} has only {there:,}")
    return lines


def yardsticks_of(run: PruneRun) -> list[Yardstick]:
    """Score and chance of each task on selection items, with the correlation that the first plan shows there."""
    notes = run.notes
    if "yardsticks" not in notes:
        scores = zip(run.path.parts, run.path.objective.uncut, strict=True)
        notes.put("yardsticks", [[part.label, uncut.estimate.value, uncut.chance or 0.0] for part, uncut in scores])
    tasks = [Yardstick(*score) for score in notes["yardsticks"]]
    if "path_ended" not in notes:
        return tasks
    step = PathStep.model_validate(notes["path"][0])
    return [
        task if kept.correlation is None else task._replace(correlation=kept.correlation)
        for task, kept in zip(tasks, step.chosen.kept, strict=True)
    ]
