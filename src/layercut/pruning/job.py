"""Prune a model for a goal: measure it, build a path of plans, heal, confirm, and write the checkpoint.

    prune_model(ModelSettings(model="bundled:smollm2-135m"), PruneSettings(use="math"), out=Path("runs/math"), ...)

    runs/math/  notes.jsonl           what was decided so far, and the time of each stage
                searches/path/        answers to selection items, of the original model and under all plans
                healing/depth-2/      a plan's pruned checkpoint and its healings, while they are needed
                uncut/, depth-1/ ...  answers to report items, a run folder each
                versus/               those of other models that were named
                model/                the checkpoint, where a plan passed
                side_effects/         answers of both models to the checks outside the goal
                result.json           all of it, see layercut.runs.prune

A conductor: every step is one that exists alone. Report items are asked once the path, the healings and the number of
items are fixed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.engine.timing import Timer
from layercut.errors import InputError
from layercut.models.weights import fingerprint, read_config
from layercut.progress.bars import StageProgress
from layercut.pruning.budget import CONFIRM
from layercut.pruning.confirm import LEVEL, Arm, FixedSequence, Other, judge
from layercut.pruning.context import PruneContext
from layercut.pruning.goal import GoalTasks, goal_tasks
from layercut.pruning.original import OriginalModel
from layercut.pruning.outcome import outcome_of
from layercut.pruning.outline import FLAGS, refuse_early, settings_of_run, size_unit, units_of
from layercut.pruning.profile import fitted
from layercut.pruning.pruned import Pruned
from layercut.pruning.search import PathSearch
from layercut.pruning.settings import LAYER, PruneSettings
from layercut.pruning.side_effects import FOLDER as SIDE_EFFECTS_FOLDER
from layercut.pruning.side_effects import SIDE_EFFECTS, checks_for, side_effects
from layercut.pruning.sizes import Sizes, on_experts
from layercut.pruning.speed import timed_rounds
from layercut.pruning.verdict import card_verdict
from layercut.pruning.versus import other_model, run_of, timer_of
from layercut.runs.atomic import new_directory, write_text
from layercut.runs.directory import METRICS, PAGE, RunFolder
from layercut.runs.disk import resumable
from layercut.runs.environment import shown
from layercut.runs.json_text import load
from layercut.runs.prune import MODEL, RESULT, PruneResult, SideEffect, least_kept
from layercut.runs.study import ARMS
from layercut.selection.search_journal import SearchJournal
from layercut.selection.select import objective_parts
from layercut.settings import UNCUT, ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.cut import UNMEASURED, cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, announce_isolation, run_cells, run_settings
from layercut.text.counting import counted

WRITTEN = "fingerprint of the checkpoint"  # a note: its weights, when they were verified
_STEPS = ("original", "path", "confirm", "checkpoint", SIDE_EFFECTS, "speed")
"""Of a run, in order; other models are asked while plans are confirmed."""


def prune_model(
    model: ModelSettings | ModelHandle,
    settings: PruneSettings,
    *,
    goal: GoalTasks | None = None,
    out: Path,
    seed: int = 0,
    anyway: bool = False,
    strict: bool = False,
    console: Console,
    say: Callable[[str], None],
) -> Pruned:
    """Find the deepest plan that keeps the goal, and write its checkpoint; ``layercut prune``.

    The same call again goes on where it was stopped, and computes nothing twice.

    Args:
        goal: the tasks, where they have local data; those that the settings name if left out.
        anyway: write the best plan's checkpoint even where none passed.
        strict: stop after the original model's answers where the report items are too few for the goal.

    Raises:
        InputError: a model, task or setting that cannot be used, an original model that is not above chance on any
            task, too few report items of a strict run, or a folder that holds another run.
    """
    goal = goal or goal_tasks(settings)
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    units = units_of(handle, settings, say)
    unit = size_unit(settings)
    sizes = () if units == LAYER else Sizes(handle).wanted(settings, unit)
    depth = settings.num_plans(sizes, handle.num_layers)
    profile = fitted(settings.serve, handle.context_length, "serve" in settings.model_fields_set)
    for note in (on_experts(read_config(handle.source.path)), plan_cut(handle.source.path, handle.plan()).copy):
        if note:
            say(note)
    parts = [part for task in goal.tasks for part in objective_parts(task, seed)]
    refuse_early(handle, settings, profile, parts)
    wanted = settings_of_run(handle, settings, parts, seed)
    isolation = announce_isolation((part.task for part in parts), say)
    with resumable(out), RunFolder.begin(out, wanted, flags=FLAGS, sandbox=isolation) as run:
        if (run.path / RESULT).is_file():
            known = PruneResult.load(run.path)
            is_asked = tuple(one.model for one in known.versus) == settings.versus
            is_timed = known.serve == profile.words or "serve" not in settings.model_fields_set
            is_written = has_checkpoint(run) if known.checkpoint is not None else not anyway
            if is_asked and is_timed and is_written:
                return Pruned(run.path, known, handle.settings)
        if goal.note:
            say(goal.note)
        search = {**handle.describe(), "seed": seed, "objective": [part.task.name for part in parts]}
        with (
            RunFolder.begin(run.path / "searches" / "path", search) as searches,
            SearchJournal(searches) as journal,
        ):
            context = PruneContext(
                run=run,
                model=handle,
                settings=settings,
                goal=goal,
                asked=tuple(parts),
                units=units,
                sizes=sizes,
                unit=unit,
                max_depth=depth,
                profile=profile,
                seed=seed,
                anyway=anyway,
                strict=strict,
                isolation=isolation,
                state=run.notes,
                journal=journal,
                progress=StageProgress(
                    console, [step for step in _STEPS if step != SIDE_EFFECTS or not settings.no_side_effects]
                ),
                console=console,
                say=say,
            )
            found = PruneJob(context).run()
        (run.path / PAGE).unlink(missing_ok=True)  # of an earlier result
        return Pruned(run.path, found, handle.settings)


def has_checkpoint(run: RunFolder) -> bool:
    """True if the checkpoint is there, as it was verified.

    Raises:
        InputError: its weights are others by now.
    """
    folder = run.path / MODEL
    if not folder.exists():
        return False
    if fingerprint(folder) != run.notes[WRITTEN]:
        raise InputError(
            f"the weights in {shown(folder)} are not those that were verified, so this verdict does not hold for "
            "them. Move that folder elsewhere, and the same command writes it again."
        )
    return True


class PruneJob:
    """The stages of one run of prune, one after the other."""

    def __init__(self, context: PruneContext) -> None:
        self._context, self._folder = context, context.folder
        self._model, self._settings, self._state = context.model, context.settings, context.state
        self._progress, self._say = context.progress, context.say
        self._original = OriginalModel(context)
        self._search = PathSearch(context, self._original)

    def run(self) -> PruneResult:
        state = self._state
        if "shared" not in state:  # models that are named before the plans are tested share their error
            state.put("shared", [] if "report_items" in state else list(self._settings.versus))
        if "general" not in state:  # a path that was begun without general requests goes on without
            wanted = not self._settings.goal_alone and "path" not in state
            state.put("general", wanted and self._model.has_chat_template)
        with self._progress.running():
            with self._stage("original"):
                self._original.measure()
            with self._stage("path"):
                self._search.run()
            with self._stage("confirm"):
                self._number_items()
                self._ask(self._uncut)
            others: tuple[Other, ...] = ()
            if self._settings.versus:
                with self._stage("versus"):
                    others = self._ask_others()
            with self._stage("confirm"):
                found = self._confirm(others)
            with self._stage("checkpoint"):
                chosen = self._passed(found) or self._arms()[0]  # the deepest that passed, else the first
                self._write(chosen, found)
            effects: tuple[SideEffect, ...] = ()
            if not self._settings.no_side_effects and (self._folder / MODEL).exists():
                with self._stage(SIDE_EFFECTS):
                    effects = self._check(chosen)
            self._write_card(chosen, found, effects)
            with self._stage("speed"):
                has_choice = bool(self._settings.versus or self._settings.faster)
                timed = {chosen.name, *(one.name for one in found.tested if has_choice)}
                self._time([arm for arm in self._arms() if arm.name in timed])
            sizes = {arm.name: plan_cut(self._model.source.path, arm.plan).bytes_after for arm in self._arms()}
            result = outcome_of(self._context, self._original, self._search.steps, found, chosen, sizes, effects)
            result.save(self._folder)
        if (self._folder / MODEL).exists():  # healed checkpoints may be wanted later only where none was written
            shutil.rmtree(self._folder / "healing", ignore_errors=True)
        return result

    def _stage(self, name: str) -> AbstractContextManager[None]:
        self._progress.step(name)
        return self._state.stage(name)

    @property
    def _uncut(self) -> Arm:
        return Arm(UNCUT, self._model.plan(), None)

    @property
    def _goal_cells(self) -> list[Cell]:
        """The goal's tasks on as many report items as were decided."""
        number = self._state["report_items"]
        return [Cell(task=one.task, readout=one.readout, limit=number[one.label]) for one in self._original.parts]

    def _number_items(self) -> None:
        """Decide how many report items of each task are asked."""
        if "report_items" not in self._state:
            left = (self._settings.seconds or 0) - sum(self._state.seconds.values())
            number = self._original.num_report(len(self._arms()) + 1, max(left, 0) / CONFIRM * 0.8)
            self._state.put("report_items", number)
            self._original.announce(number)

    def _arms(self) -> list[Arm]:
        """The tested models, in order."""
        steps = self._search.tested_steps
        return [Arm(one.run, self._search.plan(one), one.healing, one.stage) for one in steps]

    def _confirm(self, others: Sequence[Other]) -> FixedSequence:
        """Test depths in a fixed order on report items, up to the first that fails."""
        arms, seed, keep, uncut = self._arms(), self._context.seed, self._settings.keep, self._uncut
        beside = [one for one in others if one.model in self._state["shared"]]
        self._state.put(ARMS, [{**arm.describe(), "seed": seed} for arm in (uncut, *arms)])
        found = None
        for number, arm in enumerate(arms, start=1):
            self._ask(arm)
            found = judge(self._folder, arms[:number], beside, keep, LEVEL, seed)
            last = found.tested[-1] if found.tested else None
            shown = "n/a"
            if last is not None and (least := least_kept(last.kept)) is not None:
                shown = f"{least.value:.0%} {'passed' if last.passed else last.verdict}"
            self._progress.end(arm.stage, shown=shown, style="green" if last and last.passed else "yellow")
            if last is None or not last.passed:
                break
        assert found is not None, "the path has a depth at least"
        asked = [arm for arm in arms if (self._folder / arm.name).exists()]
        self._state.put(ARMS, [{**arm.describe(), "seed": seed} for arm in (uncut, *asked)])
        if later := [one for one in others if one not in beside]:
            more = judge(self._folder, (), later, keep, LEVEL, seed).others
            by_name = {one.model: one for one in (*found.others, *more)}
            found = found._replace(others=tuple(by_name[one.model] for one in others))
        for other in found.others:
            least = least_kept(other.kept)
            shown = "n/a" if least is None else f"{least.value:.0%} {other.verdict}"
            self._progress.end(other.model, shown=shown, style="green" if other.passed else "yellow")
        return found

    def _ask(self, arm: Arm) -> None:
        """Have one model answer the report items; InputError: one of them chose the plan."""
        if not arm.healing:
            self._answer(arm.name, arm.stage, self._model, arm.plan, arm=arm.describe())
        else:
            checkpoint = self._search.healer.checkpoint(arm.plan, arm.healing)
            if not checkpoint.exists() and (self._folder / arm.name / METRICS).is_file():
                return  # of a finished run, which keeps no healings
            model = self._search.handle_of(checkpoint)
            healed = {"healing": {"method": arm.healing, "model_hash": model.metadata.model_hash}}
            plan = CutPlan(num_layers=model.num_layers)
            self._answer(arm.name, arm.stage, model, plan, arm.plan, arm=arm.describe(), more=healed)
            model.release()
        self._progress.end(arm.stage, note="all report items answered")

    def _answer(
        self,
        name: str,
        stage: str,
        model: ModelHandle,
        plan: CutPlan,
        recorded: CutPlan | None = None,
        *,
        arm: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
        checks: Sequence[Cell] | None = None,
    ) -> None:
        """Report items, or other ``checks``, answered by a model under a plan, into a run folder.

        Args:
            recorded: the plan to be written down, where that is another one.
            more: settings of this folder alone.
        """
        decoding, recorded = self._context.decoding, recorded or plan
        cells = self._goal_cells if checks is None else checks
        self._progress.begin(stage, "scoring report items")
        self._progress.cells = [cell.label for cell in cells]
        settings = {**run_settings(model, recorded, cells, decoding, decoding.seed), **(more or {})}
        about = None if arm is None else {**arm, "seed": decoding.seed}
        with RunFolder.begin(self._folder / name, settings, sandbox=self._context.isolation) as run:
            run_cells(run, model, plan, cells, decoding, self._progress, recorded=recorded, arm=about)

    def _ask_others(self) -> tuple[Other, ...]:
        """Have the other models that were named answer the report items of the original model."""
        found = []
        self._original.release()
        for name in self._settings.versus:
            run, model = run_of(name), other_model(self._model.settings, name)
            self._answer(run, name, model, model.plan())
            found.append(Other(name, run, model.disk_bytes(model.plan())))
            model.release()
            self._progress.end(name, note="all report items answered")
        return tuple(found)

    # The answer

    def _passed(self, found: FixedSequence) -> Arm | None:
        names = [one.name for one in found.tested if one.passed]
        return next((arm for arm in self._arms() if names and arm.name == names[-1]), None)

    def _write(self, arm: Arm, found: FixedSequence) -> None:
        """The checkpoint, verified by reload, where a plan passed or it is wanted anyway."""
        target = self._folder / MODEL
        if not (self._passed(found) or self._context.anyway):
            return
        if "verified" in self._state and has_checkpoint(self._context.run):
            return
        if target.exists():  # stopped before it was known how it was verified
            shutil.rmtree(target)
        self._progress.begin("checkpoint", "writing and reloading")
        if arm.healing:
            made = self._search.healer.checkpoint(arm.plan, arm.healing)
            if not made.exists():
                raise InputError(f"{shown(target)} is gone, and only there were the healed weights; use another `out`.")
            with new_directory(target) as folder:
                shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            checked = "; ".join(load(target / "plan.json")["healing"][-1].get("checked", []))
        else:
            checked = cut_model(self._model.source, arm.plan, target, uncut=lambda: self._model.loaded).verified
        self._state.put(WRITTEN, fingerprint(target))
        self._state.put("verified", checked)
        self._progress.end("checkpoint", note=str(target))

    def _write_card(self, arm: Arm, found: FixedSequence, effects: Sequence[SideEffect]) -> None:
        """Open the checkpoint's card with the verdict, once."""
        card, context = self._folder / MODEL / "README.md", self._context
        if card.exists():
            verdict = card_verdict(
                arm.name,
                found.tested,
                effects,
                keep=self._settings.keep,
                level=LEVEL,
                seed=context.seed,
                command=context.run.environment["command"],
            )
            write_text(card, card.read_text("utf-8").replace(UNMEASURED, verdict, 1))

    def _check(self, arm: Arm) -> tuple[SideEffect, ...]:
        """Abilities outside the goal that the checkpoint lost."""
        checks = checks_for(self._model, self._context.seed)
        if not checks:
            self._progress.end(SIDE_EFFECTS, note="not checked: the model can be asked none of them")
            return ()
        before, after = (f"{SIDE_EFFECTS_FOLDER}/{name}" for name in (UNCUT, arm.name))
        self._answer(before, SIDE_EFFECTS, self._model, self._model.plan(), checks=checks)
        self._original.release()
        model = self._search.handle_of(self._folder / MODEL)
        self._answer(after, SIDE_EFFECTS, model, model.plan(), checks=checks)
        model.release()
        found = side_effects(self._folder / before, self._folder / after, self._context.seed)
        shown = sum(one.is_shown for one in found)
        self._progress.end(SIDE_EFFECTS, note=f"{counted(len(found), 'check')}, {shown} with a difference that counts")
        return found

    def _time(self, arms: Sequence[Arm]) -> None:
        """Speed and memory of the original model by turns with the plans, and then with each other model.

        A plan is timed on the original's weights: what they hold does not change the time.
        """
        profile, seed = self._context.profile, self._context.seed
        timed: dict[str, Any] = dict(self._state.get("timed", {}).get(profile.words, {}))

        def time(others: Mapping[str, Timer]) -> None:
            uncut = timer_of(self._model, profile=profile)
            found = timed_rounds({UNCUT: uncut, **others}, profile, seed, self._progress)
            timed.update({name: {UNCUT: found[UNCUT], name: found[name]} for name in others})
            self._state.put("timed", {**self._state.get("timed", {}), profile.words: timed})

        self._progress.begin("speed", "timing plans by turns with the original model")
        if new := [arm for arm in arms if arm.name not in timed]:
            time({arm.name: timer_of(self._model, arm.plan, profile) for arm in new})
        for name in self._settings.versus:
            if (run := run_of(name)) not in timed:
                self._progress.begin("speed", f"timing {name} by turns with the original model")
                model = other_model(self._model.settings.replace(batch_size=profile.batch), name)
                time({run: timer_of(model)})
                model.release()
        self._progress.end("speed", note="timed")
