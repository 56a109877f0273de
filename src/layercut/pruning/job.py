"""Prune a model for a goal: measure it, build a path of plans, heal, confirm, and write the checkpoint.

    prune_model(ModelSettings(model="bundled:smollm2-135m"), PruneSettings(use="math"), out=Path("runs/math"), ...)

    runs/math/  prune.json            what was decided so far, and the time of each stage
                searches/path/        answers to selection items, of the original model and under all plans
                healing/depth-2/      a plan's pruned checkpoint and its healings, while they are needed
                uncut/, depth-1/ ...  answers to report items, a run folder each
                model/                the checkpoint, where a plan passed
                result.json           all of it, see layercut.runs.prune

A conductor: every step is one that exists alone. Report items are asked once the path, the healings and the number of
items are fixed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import AtChance, InputError
from layercut.healing.prompt_sources import PromptSource
from layercut.models.weights import safetensors_files
from layercut.progress.heartbeat import clock
from layercut.progress.stages import StageProgress
from layercut.pruning.budget import (
    CANDIDATES,
    CONFIRM,
    FEWEST,
    FIRST,
    MOST,
    RACED,
    SELECTION_ITEMS,
    Yardstick,
    items_for,
    report_items_in,
    resolution,
    selection_items_in,
)
from layercut.pruning.confirm import Arm, FixedSequence, arm_name, ask, judge, original_scores
from layercut.pruning.goal import GoalTasks, goal_tasks
from layercut.pruning.healing import DepthHealer, healing_prompts, training_prompts
from layercut.pruning.path import PlanPath
from layercut.pruning.settings import AUTO, NONE, PruneSettings
from layercut.pruning.speed import speeds, timed_rounds
from layercut.pruning.state import PruneState
from layercut.pruning.verdict import answer_of, next_step
from layercut.report.html.page import PAGE
from layercut.report.reports import write_reports
from layercut.runs.atomic import new_directory
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.runs.environment import machine
from layercut.runs.json_text import load
from layercut.runs.prune import (
    MODEL,
    RESULT,
    Chosen,
    Estimated,
    Goal,
    GoalTask,
    PathStep,
    PruneResult,
    SetAside,
    Size,
    TaskKept,
    Tried,
    least_kept,
)
from layercut.runs.study import Manifest
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan, format_layers
from layercut.tasks.cells import Cell, announce_isolation
from layercut.tasks.shortfall import tell_shortfalls

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.models.loading import LoadedModel

LEVEL = 0.95
SEAM, TRAINED = "seam", "lora"
"""What ``auto`` heals by: in closed form, and by training."""
_SMALL = 1_000_000_000
"""Parameters up to which the original model stays in memory while another is healed."""
_REASONABLE = 0.5
"""A plan that keeps less than this share of what is asked for is not healed by ``auto``: seams bring back little."""
FLAGS = {"limit": "items", "objective": "tasks"}


@dataclass(frozen=True)
class Pruned:
    """What came out, and where it lies."""

    folder: Path
    result: PruneResult
    settings: ModelSettings
    """How the original model was loaded."""

    @property
    def checkpoint(self) -> Path | None:
        """The pruned model's folder; None where no plan passed."""
        return None if self.result.checkpoint is None else self.folder / self.result.checkpoint

    @property
    def plan(self) -> CutPlan:
        """The plan that passed, or the best one where none did: see ``result.verdict``."""
        return CutPlan.load(self.folder / self.result.chosen.name / "plan.json")

    @property
    def kept(self) -> dict[str, Estimated | None]:
        """Share of the score above chance that the plan keeps of each task, on report items."""
        found = next((one for one in self.result.tested if one.name == self.result.chosen.name), None)
        return {one.task: one.kept for one in found.kept} if found else {}

    @property
    def report(self) -> Path:
        """report.html, where it was written; else result.json."""
        page = self.folder / PAGE
        return page if page.is_file() else self.folder / RESULT

    @cached_property
    def loaded(self) -> LoadedModel:
        """The pruned model with its tokenizer, loaded from the checkpoint.

        Raises:
            InputError: no plan passed, so there is none.
        """
        from layercut.models.loading import load_model

        if self.checkpoint is None:
            raise InputError(f"{self.result.why} Use `anyway` for the checkpoint of the best plan.")
        wanted = self.settings
        return load_model(str(self.checkpoint), dtype=wanted.dtype, device=wanted.device, device_map=wanted.device_map)

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model; see ``loaded``."""
        return self.loaded.model


def prune_model(
    model: ModelSettings | ModelHandle,
    settings: PruneSettings,
    *,
    goal: GoalTasks | None = None,
    out: Path,
    seed: int = 0,
    anyway: bool = False,
    console: Console,
    say: Callable[[str], None],
) -> Pruned:
    """Find the deepest plan that keeps the goal, and write its checkpoint; ``layercut prune``.

    The same call again goes on where it was stopped, and computes nothing twice.

    Args:
        model: the original model.
        settings: the goal, and what may be spent on it.
        goal: the tasks, where they have local data; those that the settings name if left out.
        out: the folder.
        seed: random seed.
        anyway: write the best plan's checkpoint even where none passed.
        console: where progress goes.
        say: called with each line for people.

    Raises:
        InputError: a model, task or setting that cannot be used, an original model that is not above chance on any
            task, or a folder that holds another run.
    """
    goal = goal or goal_tasks(settings)
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    depth = settings.depth(handle.num_layers)
    parts = [part for task in goal.tasks for part in objective_parts(task, seed)]
    wanted = {
        **handle.describe(),
        "goal": [{**part.describe(), "limit": None} for part in parts],
        **{name: value for name, value in settings.as_dict().items() if name not in ("use", "tasks")},
        "seed": seed,
    }
    isolation = announce_isolation((part.task for part in parts), say)
    with resumable(out), RunFolder.begin(out, wanted, flags=FLAGS, sandbox=isolation) as run:
        if (run.path / RESULT).is_file():
            known = PruneResult.load(run.path)
            if known.checkpoint is not None or not anyway:
                _report(run.path, seed)
                return Pruned(run.path, known, handle.settings)
        job = PruneJob(run, handle, settings, goal, parts, depth, seed, anyway, isolation, console, say)
        found = job.run()
        (run.path / PAGE).unlink(missing_ok=True)
        _report(run.path, seed)
        return Pruned(run.path, found, handle.settings)


def _report(folder: Path, seed: int) -> None:
    """The page and report.md, unless they are there."""
    if not (folder / PAGE).is_file():
        write_reports(folder, seed=seed)


class PruneJob:
    """One run of prune."""

    def __init__(
        self,
        run: RunFolder,
        model: ModelHandle,
        settings: PruneSettings,
        goal: GoalTasks,
        parts: Sequence[ObjectiveTask],
        max_depth: int,
        seed: int,
        anyway: bool,
        isolation: str | None,
        console: Console,
        say: Callable[[str], None],
    ) -> None:
        """Nothing is computed yet."""
        self._run, self._folder, self._model, self._settings, self._goal = run, run.path, model, settings, goal
        self._asked, self._depth, self._seed, self._anyway = list(parts), max_depth, seed, anyway
        self._isolation, self._console, self._say = isolation, console, say
        self._state = PruneState(run.path)
        self._draw = Decoding(seed=seed)
        self._progress = StageProgress(console, self._left)
        self._held = ExitStack()
        self._path_made: PlanPath | None = None

    def run(self) -> PruneResult:
        """Do all that is left."""
        say, state = self._say, self._state
        if self._goal.note:
            say(self._goal.note)
        with self._held, self._progress.running():
            search = {**self._model.describe(), "seed": self._seed, "objective": [one.task.name for one in self._asked]}
            searches = self._held.enter_context(RunFolder.begin(self._folder / "searches" / "path", search))
            self._journal = self._held.enter_context(SearchJournal(searches))
            with state.stage("original"):
                self._measure()
            with state.stage("path"):
                self._search()
            with state.stage("confirm"):
                found = self._confirm()
            with state.stage("checkpoint"):
                chosen = self._passed(found) or self._arms()[0]  # the deepest that passed, else the first
                self._write(chosen, passed=bool(found.tested) and self._passed(found) is not None)
            with state.stage("speed"):
                self._time(chosen)
            result = self._result(found, chosen)
            result.save(self._folder)
        if (self._folder / MODEL).exists():  # healed checkpoints may be wanted later only where none was written
            shutil.rmtree(self._folder / "healing", ignore_errors=True)
        return result

    # What is asked, and how many items of it

    def _measure(self) -> None:
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
            tell_shortfalls([replace(part, limit=limit) for part in self._asked], "selection", self._say)
            for part in self._asked:
                try:
                    self._uncut(replace(part, limit=min(limit, FEWEST)), is_first=True)
                    self._uncut(replace(part, limit=limit))
                except AtChance as error:
                    ignored.append({"task": part.task.name, "readout": part.readout, "reason": str(error)})
                    self._say(f"{part.label} decides nothing: {error}")
            if len(ignored) == len(self._asked):
                raise InputError(
                    "the original model is not above guessing on any task of this goal, so there is nothing to keep: "
                    + "; ".join(one["reason"] for one in ignored)
                )
            state.put("ignored", ignored)
        scores = ", ".join(f"{one.label} {one.score:.0%}" for one in self._yardsticks)
        progress.end("original", note=scores)
        if "announced" not in state:
            num_items = self._num_report(self._depth + 1, self._settings.seconds or 0)
            counts = {one.task.name: len(one.task.samples("selection", one.limit)) for one in self._parts}
            same = len(set(counts.values())) == 1
            given = {"each task": max(counts.values())} if same else counts
            listed = ", ".join(f"{number} selection items of {name}" for name, number in given.items())
            self._say(f"{listed} choose the layers; " + resolution(self._yardsticks, num_items, self._settings.keep))
            state.put("announced", num_items)

    def _first_answers(self, seconds: float) -> int:
        """Selection items that fit into the time, by the speed of the first answers.

        Rows of a batch share the reading of weights, so where the first few take little of the time, a larger batch
        tells the speed.
        """

        def seconds_of_an_item(limit: int) -> float:
            for part in self._asked:
                with suppress(AtChance):
                    self._uncut(replace(part, limit=limit), is_first=True)
            return self._per_item(self._asked)

        per_item = seconds_of_an_item(FEWEST)
        more = min(int(FIRST * seconds / max(per_item, 1e-9)), self._model.settings.batch_size, SELECTION_ITEMS)
        if more >= 2 * FEWEST:
            per_item = seconds_of_an_item(more)
        return selection_items_in(seconds, per_item, self._depth)

    def _uncut(self, part: ObjectiveTask, *, is_first: bool = False) -> None:
        """The original model's answers to one task, and how long each took.

        Raises:
            AtChance: it is not above chance there; of the first few items, all of its answers score 0.
        """
        objective = TaskObjective(
            self._model.engine, [part], decoding=self._draw, normalise="chance", journal=self._journal,
            progress=self._progress,
        )  # fmt: skip
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
    def _parts(self) -> list[ObjectiveTask]:
        """The tasks that decide, with the number of their selection items."""
        ignored = {(one["task"], one["readout"]) for one in self._state["ignored"]}
        limit = self._state["selection_items"]
        return [replace(one, limit=limit) for one in self._asked if (one.task.name, one.readout) not in ignored]

    def _per_item(self, parts: Sequence[ObjectiveTask]) -> float:
        """Seconds that the original model takes for one item of each task."""
        known: dict[str, float] = self._state.get("seconds_per_item", {})
        return sum(known.get(part.label, 0.0) for part in parts)

    @cached_property
    def _yardsticks(self) -> list[Yardstick]:
        if "yardsticks" not in self._state:
            found = [
                [part.label, one.estimate.value, one.chance or 0.0]
                for part, one in zip(self._path.parts, self._path.objective.uncut, strict=True)
            ]
            self._state.put("yardsticks", found)
        return [Yardstick(*one) for one in self._state["yardsticks"]]

    def _num_report(self, num_models: int, seconds: float) -> dict[str, int]:
        """Report items of each task: as many as were asked for, as fit into the time, or as the goal needs."""
        found = {}
        for part, task in zip(self._parts, self._yardsticks, strict=True):
            number = self._settings.items
            if number is None and self._settings.seconds is not None:
                number = report_items_in(CONFIRM * seconds, self._per_item(self._parts), num_models)
            elif number is None:
                number = min(max(items_for(task, self._settings.keep), FEWEST), MOST)
            found[part.label] = len(part.task.samples("report", number))
            if not found[part.label]:
                raise InputError(
                    f"{part.task.name} has no report items, so nothing can be shown by it; give more rows."
                )
        return found

    # The path of plans

    @property
    def _path(self) -> PlanPath:
        if self._path_made is None:
            self._path_made = PlanPath(
                self._model.engine, self._parts, decoding=self._draw, journal=self._journal, progress=self._progress
            )
        return self._path_made

    @property
    def _steps(self) -> list[PathStep]:
        return [PathStep.model_validate(one) for one in self._state.get("path", [])]

    def _plan(self, removed: Sequence[int]) -> CutPlan:
        return self._path.plan(removed, self._model.plan())

    def _search(self) -> None:
        """One depth after the other, until nothing is left to be shown or the time is used."""
        state, keep = self._state, self._settings.keep
        for step in self._steps:
            self._show(step)
        while "path_ended" not in state:
            steps = self._steps
            why = self._ended(steps, keep)
            if why:
                state.put("path_ended", why)
                break
            removed = steps[-1].removed if steps else ()
            name = f"depth {len(removed) + 1}"
            self._progress.begin(name, "choosing the next layer")
            found = self._path.next_layer(removed)
            removed = (*removed, found.layer)
            tried = [Tried(kept=self._path.kept(removed, self._seed))]
            tried += self._healed(removed, tried[0].kept)
            step = PathStep(
                depth=len(removed),
                removed=removed,
                candidates=found.num_candidates,
                tried=tuple(tried),
                healing=_best(tried).healing,
            )
            state.put("path", [*(one.model_dump(mode="json") for one in steps), step.model_dump(mode="json")])
            self._show(step)
        self._train()

    def _show(self, step: PathStep) -> None:
        least = least_kept(_kept_by(step))
        healed = f", healed by {step.healing}" if step.healing else ""
        self._progress.end(
            f"depth {step.depth}",
            note=f"without {format_layers(step.removed)}{healed}",
            chosen="n/a" if least is None else f"{least.value:.0%}",
        )

    def _ended(self, steps: Sequence[PathStep], keep: float) -> str:
        """Why the path goes no deeper; empty where it does."""
        if len(steps) >= self._depth:
            return f"{self._depth} layers are the most that were asked for"
        if self._settings.remove is not None:
            return ""
        chosen = [_kept_by(step) for step in steps]
        for kept in chosen[-1:]:
            for one in kept:
                if one.kept is not None and one.kept.high is not None and one.kept.high < keep:
                    return f"{steps[-1].depth} layers keep at most {one.kept.high:.0%} of {one.task} on selection items"
        if len(chosen) > 1 and all(_least(kept) < keep for kept in chosen[-2:]):
            return f"the last two depths keep less than {keep:.0%} on selection items"
        seconds = self._settings.seconds
        if seconds is not None and self._state.used > (1 - CONFIRM) * seconds and steps:
            return "the rest of the time is for report items"
        return ""

    def _healed(self, removed: tuple[int, ...], plain: tuple[TaskKept, ...]) -> list[Tried]:
        """The plan healed, where that may pay."""
        method, keep = self._settings.heal, self._settings.keep
        if method == AUTO:
            return [self._heal(removed, SEAM)] if _REASONABLE * keep <= _least(plain) < 1 else []
        return [] if method == NONE else [self._heal(removed, method)]

    def _heal(self, removed: tuple[int, ...], method: str) -> Tried:
        """Heal the plan in one way, and judge it on selection items."""
        plan = self._plan(removed)
        self._progress.begin(f"depth {len(removed)}", f"healing by {method}")
        began = time.monotonic()
        source = self._prompts(method)
        if self._model.num_parameters(self._model.plan()) > _SMALL:
            self._path_made = None
            self._model.release()
        checkpoint = self._healer.heal(plan, method, source)
        self._healer.forget(plan)
        seconds = time.monotonic() - began
        self._progress.begin(f"depth {len(removed)}", f"scoring the model healed by {method}")
        healed = self._handle_of(checkpoint)
        kept = self._path.kept_healed(healed.engine, self._seed)
        healed.release()
        return Tried(healing=method, kept=kept, seconds=round(seconds, 1))

    def _prompts(self, method: str) -> PromptSource:
        if method == SEAM:
            return healing_prompts(self._path, self._model.metadata.model_hash)
        return training_prompts(self._path)

    def _train(self) -> None:
        """Train the first depth that is at risk, where the time that is left for it surely suffices."""
        state, keep, seconds = self._state, self._settings.keep, self._settings.seconds
        if self._settings.heal != AUTO or seconds is None:
            return
        steps = self._steps
        if "trained" not in state:
            weak = next((one for one in steps if _least(_kept_by(one)) < (1 + keep) / 2), None)
            state.put("trained", None if weak is None or not self._fits(weak, seconds) else weak.depth)
        place = next((place for place, one in enumerate(steps) if one.depth == state["trained"]), None)
        if place is None or any(one.healing == TRAINED for one in steps[place].tried):
            return
        tried = (*steps[place].tried, self._heal(steps[place].removed, TRAINED))
        steps[place] = steps[place].model_copy(update={"tried": tried, "healing": _best(tried).healing})
        state.put("path", [one.model_dump(mode="json") for one in steps])
        self._show(steps[place])

    def _fits(self, step: PathStep, seconds: float) -> bool:
        """Whether training surely fits into the time that report items do not need."""
        if find_spec("trl") is None or find_spec("peft") is None:
            return False
        try:
            source = self._prompts(TRAINED)
        except InputError:
            return False
        most = self._healer.most_seconds(self._plan(step.removed), TRAINED, source)
        left = (1 - CONFIRM) * seconds - self._state.used
        if most > left:
            self._say(f"healing by training may take {clock(most)}, and {clock(max(left, 0))} is left for it: left out")
        return most <= left

    @cached_property
    def _healer(self) -> DepthHealer:
        tasks = self._goal.tasks
        folder = self._folder / "healing"
        return DepthHealer(self._model, tasks, folder, seed=self._seed, console=self._console, say=self._say)

    def _handle_of(self, checkpoint: Path) -> ModelHandle:
        return ModelHandle(self._model.settings.replace(model=str(checkpoint), revision=None))

    # Report items

    def _arms(self) -> list[Arm]:
        """What is tested, in order."""
        steps = self._steps if self._settings.remove is None else self._steps[-1:]
        return [Arm(arm_name(one.depth, one.healing), self._plan(one.removed), one.healing) for one in steps]

    def _confirm(self) -> FixedSequence:
        """Test depths in a fixed order on report items, up to the first that fails."""
        state = self._state
        arms = self._arms()
        if "report_items" not in state:
            left = (self._settings.seconds or 0) - state.used
            state.put("report_items", self._num_report(len(arms) + 1, max(left, 0) / CONFIRM * 0.8))
            self._say(resolution(self._yardsticks, state["report_items"], self._settings.keep))
        uncut = Arm(arm_name(0, None), self._model.plan(), None)
        Manifest(self._folder, [{**arm.describe(), "seed": self._seed} for arm in (uncut, *arms)])
        self._ask(uncut)
        found = None
        for number, arm in enumerate(arms, start=1):
            self._ask(arm)
            found = judge(self._folder, arms[:number], self._settings.keep, LEVEL, self._seed)
            last = found.tested[-1] if found.tested else None
            shown = "n/a"
            if last is not None and (least := least_kept(last.kept)) is not None:
                shown = f"{least.value:.0%} {'passed' if last.passed else last.verdict}"
            self._progress.end(
                f"depth {len(arm.plan.removed)}", shown=shown, style="green" if last and last.passed else "yellow"
            )
            if last is None or not last.passed:
                break
        assert found is not None, "the path has a depth at least"
        asked = [arm for arm in arms if (self._folder / arm.name).exists()]
        Manifest(self._folder, [{**arm.describe(), "seed": self._seed} for arm in (uncut, *asked)])
        return found

    def _ask(self, arm: Arm) -> None:
        number = self._state["report_items"]
        cells = [Cell(task=one.task, readout=one.readout, limit=number[one.label]) for one in self._parts]
        stage = f"depth {len(arm.plan.removed)}" if arm.plan.removed else "original"
        self._progress.begin(stage, "scoring report items")
        self._progress.cells([cell.label for cell in cells])
        model = self._model
        healing = None
        if arm.healing:
            model = self._handle_of(self._healer.checkpoint(arm.plan, arm.healing))
            healing = {"method": arm.healing, "model_hash": model.metadata.model_hash}
        ask(self._folder, arm, model, cells, self._draw, self._progress, healing=healing, sandbox=self._isolation)
        if model is not self._model:
            model.release()

    # The answer

    def _passed(self, found: FixedSequence) -> Arm | None:
        names = [one.name for one in found.tested if one.passed]
        return next((arm for arm in self._arms() if names and arm.name == names[-1]), None)

    def _write(self, arm: Arm, *, passed: bool) -> None:
        """The checkpoint, verified by reload, where a plan passed or it is wanted anyway."""
        target = self._folder / MODEL
        if not (passed or self._anyway) or "verified" in self._state:
            return
        if target.exists():  # stopped before it was known how it was verified
            shutil.rmtree(target)
        self._progress.begin("checkpoint", "writing and reloading")
        if arm.healing:
            made = self._healer.checkpoint(arm.plan, arm.healing)
            with new_directory(target) as folder:
                shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            checked = "; ".join(load(target / "plan.json")["healing"][-1].get("checked", []))
        else:
            checked = cut_model(self._model.source, arm.plan, target, uncut=lambda: self._model.loaded).verified
        self._state.put("verified", checked)
        self._progress.end("checkpoint", note=str(target))

    def _time(self, arm: Arm) -> None:
        """Speed and memory of both models."""
        if "speed" in self._state:
            return
        self._progress.begin("speed", "timing both models by turns")
        uncut = self._model.plan()
        loaded = self._model.loaded
        cut = (loaded, arm.plan)
        if arm.healing:
            healed = self._handle_of(self._healer.checkpoint(arm.plan, arm.healing))
            cut = (healed.loaded, CutPlan(num_layers=healed.num_layers))
        found = timed_rounds((loaded, replace(uncut, removed=())), cut, self._seed, self._progress)
        self._state.put("speed", found)
        self._progress.end("speed", note="timed")

    def _result(self, found: FixedSequence, arm: Arm) -> PruneResult:
        state, settings = self._state, self._settings
        steps, folder = self._steps, self._folder
        checkpoint = MODEL if (folder / MODEL).exists() else None
        ignored = [SetAside.model_validate(one) for one in state["ignored"]]
        ignored += [SetAside(task=task, readout=readout, reason=why) for task, readout, why in found.not_judged]
        chosen = Chosen(name=arm.name, depth=len(arm.plan.removed), removed=arm.plan.removed, healing=arm.healing)
        verdict, why = answer_of(found.tested, steps, chosen, settings.keep, state["path_ended"], self._parts)
        timed = state["speed"]
        source = self._model.source.path
        cut_bytes = _bytes_of(folder / MODEL) if checkpoint else plan_cut(source, arm.plan).bytes_after
        return PruneResult(
            model=self._model.settings.model,
            model_hash=self._model.metadata.model_hash,
            num_layers=self._model.num_layers,
            dtype=self._model.dtype,
            goal=Goal(
                use=settings.use,
                note=self._goal.note,
                tasks=tuple(
                    GoalTask(
                        task=part.task.name,
                        readout=part.readout,
                        metric=one.metric,
                        data=next((task.data for task in self._goal.tasks if task.task == part.task.name), None),
                        chance=one.chance,
                        selection_items=one.estimate.n,
                        report_items=state["report_items"][part.label],
                    )
                    for part, one in zip(self._path.parts, self._path.objective.uncut, strict=True)
                ),
                keep=settings.keep,
                level=LEVEL,
                max_depth=self._depth,
            ),
            ignored=tuple(ignored),
            original=original_scores(folder),
            resolution=resolution(self._yardsticks, state["report_items"], settings.keep),
            path=tuple(steps),
            path_ended=state["path_ended"],
            tested=found.tested,
            verdict=verdict,
            chosen=chosen,
            why=why,
            next=next_step(found.tested, self._parts, settings, self._goal.tasks, self._model.settings.model, folder),
            checkpoint=checkpoint,
            verified=str(state.get("verified", "")),
            speed=speeds(timed["rounds"]),
            size={
                "uncut": self._size("uncut", self._model.plan(), _bytes_of(source)),
                "cut": self._size("cut", arm.plan, cut_bytes),
            },
            where=machine(),
            seed=self._seed,
            command=self._run.environment["command"],
            seconds=state.seconds,
        )

    def _size(self, name: str, plan: CutPlan, disk_bytes: int) -> Size:
        timed = self._state["speed"]
        return Size(
            parameters=self._model.num_parameters(plan),
            disk_bytes=disk_bytes,
            memory_bytes=timed["memory_bytes"][name],
            cache_bytes_per_token=timed["cache_bytes_per_token"][name],
        )

    def _left(self) -> tuple[float, float] | None:
        """The least and the most seconds that are left: by the time of an item, as if the path ended now, or not."""
        state = self._state
        if not state.get("seconds_per_item") or "ignored" not in state:
            return None
        per_item, steps = self._per_item(self._parts), len(state.get("path", []))
        number = state["selection_items"]
        ended = "path_ended" in state
        deeper = 0 if ended else max(self._depth - steps, 0)
        items = state.get("report_items") or state.get("announced") or {}
        report = max(items.values(), default=0)
        answered = sum(
            (self._folder / arm_name(one["depth"], one["healing"])).exists() for one in state.get("path", [])
        )
        answered += (self._folder / arm_name(0, None)).exists()
        models = max((steps if ended else self._depth) + 1 - answered, 0)
        search = per_item * number * (CANDIDATES * RACED + 2)
        least = min(models, 1 if answered else 2)
        low = per_item * report * least * 0.7
        high = (deeper * search + per_item * report * models) * 1.5 + 60
        return low, high


def _bytes_of(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in set(safetensors_files(folder).values()))


def _kept_by(step: PathStep) -> tuple[TaskKept, ...]:
    """What the chosen model of a depth keeps on selection items."""
    return next(one.kept for one in step.tried if one.healing == step.healing)


def _best(tried: Sequence[Tried]) -> Tried:
    """The one whose worst task keeps most; of equals the one that is not healed."""
    return max(tried, key=lambda one: (_least(one.kept), _mean(one.kept), one.healing is None))


def _least(kept: Sequence[TaskKept]) -> float:
    found = least_kept(tuple(kept))
    return float("-inf") if found is None else found.value


def _mean(kept: Sequence[TaskKept]) -> float:
    known = [one.kept.value for one in kept if one.kept is not None]
    return sum(known) / len(known) if known else float("-inf")
