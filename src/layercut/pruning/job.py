"""Prune a model for a goal: measure it, build a path of plans, heal, confirm, and write the checkpoint.

    prune_model(ModelSettings(model="bundled:smollm2-135m"), PruneSettings(use="math"), out=Path("runs/math"), ...)

A conductor: every step is one that exists alone. Report items are asked once the path, the healings and the number of
items are fixed. docs/reference/run_folder.md lists the files of its folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.progress.bars import RunProgress
from layercut.pruning.budget import check_run, selection_limit
from layercut.pruning.confirm import SIDE_EFFECTS, Arm, ask_arm, check_side_effects, confirm_arms, named_arm
from layercut.pruning.formats import FORMATS, candidate_paths
from layercut.pruning.outcome import (
    has_checkpoint,
    outcome_of,
    smallest_passed,
    time_arms,
    write_card,
    write_checkpoint,
)
from layercut.pruning.run import PruneRun, count_report_items, measure_original
from layercut.pruning.search import grow_path
from layercut.pruning.settings import Profile, PruneSettings
from layercut.pruning.vocabulary import TRIMMED_FILES, UNUSED, describe_tokens, describe_unused_tokens, trimmed_model
from layercut.runs.directory import PAGE, RunFolder
from layercut.runs.disk import resumable_writing, size_text
from layercut.runs.prune import GGUF, MODEL, RESULT, VERSUS, Estimated, PruneResult, SideEffect
from layercut.runs.records import data_frame
from layercut.runs.study import UNCUT
from layercut.selection.goal import GoalTasks, goal_tasks
from layercut.selection.search_journal import SearchJournal
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import announce_isolation
from layercut.text import Printed

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel

_STEPS = ("original", "path", FORMATS, "confirm", "checkpoint", SIDE_EFFECTS, "speed")
"""Of a run, in order; files and other models are asked while plans are confirmed."""


@dataclass(frozen=True, repr=False)
class Pruned(Printed):
    """The result and its folder."""

    folder: Path
    result: PruneResult
    settings: ModelSettings
    """Settings that the original model was loaded with."""

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
        tested = [plan for plan in self.result.tested if plan.name == self.result.chosen.name]
        return {task.task: task.kept for plan in tested for task in plan.kept}

    def to_frame(self) -> DataFrame:
        """A line for each tested plan and task, on report items."""
        return data_frame(
            [
                {"plan": plan.name, "removed": plan.words, "verdict": plan.verdict, **task.model_dump()}
                for plan in self.result.tested
                for task in plan.kept
            ]
        )

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
    detail: Callable[[str], None] = lambda text: None,
) -> Pruned:
    """Find the smallest plan that keeps the goal, and write its checkpoint; ``layercut prune``.

    The same call again goes on where it was stopped, and computes nothing twice.

    Args:
        goal: the tasks, where they have local data; those that the settings name if left out.
        anyway: write the best plan's checkpoint even where none passed.
        detail: prints what ``--verbose`` adds.

    Raises:
        InputError: a model, task or setting that cannot be used, an original model that is not above chance on any
            task, or a folder that holds another run.
    """
    goal = goal or goal_tasks(settings)
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    sizes, shares, profile, parts, wanted = check_run(handle, settings, goal, seed, say)
    if note := plan_cut(handle.source.path, handle.plan()).copy:
        say(note)
    original, asked = handle, tuple(replace(part, limit=selection_limit(settings)) for part in parts)
    isolation = announce_isolation((part.task for part in parts), say)
    with resumable_writing(out), RunFolder.begin(out, wanted, sandbox=isolation) as store:
        if result := _known_result(store, settings, profile, anyway=anyway):
            return Pruned(store.path, result, handle.settings)
        if goal.note:
            say(goal.note)
        if sizes.tokens:
            size = f"{size_text(sizes.gone)}, {sizes.gone / sizes.total:.1%} of the weights"
            say(f"removing {describe_tokens(sizes.tokens)} first: {size}")
            handle = trimmed_model(original, sizes.tokens, store.path)
        elif UNUSED not in store.notes:
            store.notes.put(UNUSED, describe_unused_tokens(handle, asked))
        if unused := store.notes.get(UNUSED):
            say(f"{unused}; `units` vocab,both removes them first")
        search = {**handle.describe(), "seed": seed, "objective": [part.task.name for part in parts]}
        skipped = {SIDE_EFFECTS: settings.no_side_effects, FORMATS: not settings.gguf_types}
        steps = [step for step in _STEPS if not skipped.get(step)]
        with RunFolder.begin(store.path / "searches" / "path", search) as searches, SearchJournal(searches) as journal:
            run = PruneRun(
                store=store,
                original=original,
                model=handle,
                settings=settings,
                goal=goal,
                asked=asked,
                sizes=sizes,
                shares=shares,
                profile=profile,
                seed=seed,
                isolation=isolation,
                journal=journal,
                progress=RunProgress(console, steps=steps),
                console=console,
                say=say,
                detail=detail,
            )
            result = run_stages(run, anyway=anyway)
        (store.path / PAGE).unlink(missing_ok=True)  # of an earlier result
        return Pruned(store.path, result, original.settings)


def _known_result(store: RunFolder, settings: PruneSettings, profile: Profile, *, anyway: bool) -> PruneResult | None:
    """The result of a finished run, where nothing more is asked for now."""
    if not (store.path / RESULT).is_file():
        return None
    known = PruneResult.load(store.path)
    named = {other.model for other in known.versus if other.run.startswith(f"{VERSUS}/")}
    is_weighed = named == {*settings.versus}
    is_timed = known.serve == profile.words or "serve" not in settings.model_fields_set
    is_written = has_checkpoint(store) if known.checkpoint is not None else not anyway
    return known if is_weighed and is_timed and is_written else None


def run_stages(run: PruneRun, *, anyway: bool) -> PruneResult:
    """Run all stages, one after the other. A stage whose decisions are in the notes takes them from there."""
    settings, notes, checkpoint = run.settings, run.notes, run.folder / MODEL
    if "shared" not in notes:  # models that are named before the plans are tested share their error
        notes.put("shared", [] if "report_items" in notes else list(settings.versus))
    effects: tuple[SideEffect, ...] = ()
    with run.progress.running():
        with run.stage("original"):
            measure_original(run)
        with run.stage("path"):
            grow_path(run)
        if settings.gguf_types:
            with run.stage(FORMATS):
                paths = candidate_paths(run)
        else:
            paths = candidate_paths(run)
        with run.stage("confirm"):
            if "report_items" not in run.notes:
                run.notes.put("report_items", count_report_items(run))
            ask_arm(run, Arm(UNCUT, run.original.plan()))
            evidence = confirm_arms(run, paths)
        own = list(chain(*paths.values()))
        plans = [arm for arm in own if not arm.file]
        chosen = smallest_passed(plans, evidence) or plans[0]
        written = smallest_passed(own, evidence) or (chosen if anyway else None)
        with run.stage("checkpoint"):
            if written:
                write_checkpoint(run, written)
        if not settings.no_side_effects and written:
            with run.stage(SIDE_EFFECTS):
                effects = check_side_effects(run, written)
        if written:
            write_card(run, written, evidence, effects)
        with run.stage("speed"):
            weighed = evidence.tested if evidence.others or settings.faster else ()
            timed = {chosen.name, *(plan.name for plan in weighed), *(other.run for other in evidence.others)}
            named = [named_arm(name, run.model.num_layers) for name in settings.versus]
            files = [
                arm._replace(file=checkpoint / GGUF) if arm is written and arm.is_gguf else arm
                for arm in own
                if arm.file
            ]
            files = [arm for arm in files if arm.name in timed]
            time_arms(run, [arm for arm in plans if arm.name in timed], [*named, *files])
        result = outcome_of(run, evidence, chosen, written, effects)
        result.save(run.folder)
    if checkpoint.exists():  # healed checkpoints may be wanted later only where none was written
        shutil.rmtree(run.folder / "healing", ignore_errors=True)
    for folder in (run.folder / FORMATS).glob("*-files"):
        shutil.rmtree(folder, ignore_errors=True)
    if run.sizes.tokens:  # it is written again where a later call needs it
        shutil.rmtree(run.folder / TRIMMED_FILES, ignore_errors=True)
    return result
