"""Heal a pruned model in one resumable run: the teacher answers, filters apply, and the pruned model is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.data import examples_of, matched, original_records, question_examples, split
from layercut.healing.filters import BUILT_IN, full_test_sets, items_used, report_items, tasks_to_check
from layercut.healing.generate import answers_of
from layercut.healing.job import TRAINING, HealingJob, ToTrain, train_along
from layercut.healing.methods import METHODS
from layercut.healing.outline import IN_FULL, check_method, check_models
from layercut.healing.pair import load_pair
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import Answering, PromptSource, asked, check_sources
from layercut.healing.prompts import AnswerRecord
from layercut.healing.record import HealingRecord
from layercut.healing.settings import RESPONSES, HealSettings
from layercut.healing.trainable import remove_weights
from layercut.models.weights import PLAN_FILE
from layercut.progress import Say
from layercut.runs.directory import REPORT, RunFolder
from layercut.runs.disk import resumable
from layercut.runs.healing import CHECKPOINT, healing_lines
from layercut.runs.settings import settings_in
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import announce_isolation
from layercut.tasks.selected_items import record_items

FLAGS = {"micro_batch": "micro_batch", "batch_size": "batch_size", "temperature": "temperature"}


class Healed(NamedTuple):
    """The outcome of a healing."""

    checkpoint: Path
    healing: dict[str, Any]

    def lines(self) -> list[str]:
        """For people."""
        where = [f"checkpoint: {self.checkpoint}", f"report: {self.checkpoint.parent / REPORT}"]
        return [*healing_lines(self.healing), *where]


def heal_model(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
    console: Console,
    say: Say,
    is_control: bool = False,
    in_full: Sequence[str] | None = None,
) -> Healed | None:
    """Heal a pruned model; ``layercut heal``. The same call again continues where it was stopped.

    In a process group all processes make the same call; the first one returns the outcome, the others None.
    ``is_control`` lets a model be its own teacher: the arm of a study that trains the original model. ``in_full`` names
    tasks of whose whole test sets training data holds no item; by default as ``full_test_sets`` says, or as the run
    was begun.

    Raises:
        InputError: settings that do not fit each other or the models, or prompts that leave nothing to train on.
        MissingExtra: TRL or PEFT is not installed.
    """
    train, group = settings.train, ProcessGroup.of_this_process()
    if not group.is_first:
        check_method(train, group)
        shared: ToTrain | None = group.share()
        if shared is not None:
            train_along(ModelHandle(cut_model), ModelHandle(teacher_model), train, shared)
            group.leave()
        return None
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    check_sources(train, source)
    check_method(train, group)
    plan, is_another = check_models(cut, teacher, source, settings, is_control=is_control)
    named = (*BUILT_IN, *settings.decontaminate, *settings.data)
    to_check = cache(lambda: tasks_to_check(named, settings.data))
    if in_full is None:
        begun = settings_in(out)
        in_full = full_test_sets(to_check(), source) if begun is None else begun.get(IN_FULL, ())
    run_settings = {
        "heal": settings.as_dict(),
        "cut": cut.describe(),
        "teacher": teacher.describe(),
        **asked(source, how, train.seed),
        **({IN_FULL: list(in_full)} if in_full else {}),
    }
    isolation = announce_isolation([one.task for one in source.tasks] if train.is_graded else [], say)
    with resumable(out), RunFolder.begin(out, run_settings, flags=FLAGS, sandbox=isolation) as run:
        folder = run.path / CHECKPOINT
        if (folder / PLAN_FILE).is_file():  # a checkpoint is complete or absent
            group.share(None)
            return ended(run, plan)
        responses = "own" if train.is_graded else settings.responses
        say(f"{cut_model.model}: {train.method}, {train.objective}, on {responses} answers")
        for note in source.notes:
            say(note)
        arms = {responses, *(RESPONSES if settings.match_tokens else ())}
        records: dict[str, list[AnswerRecord]] = {}
        if "self" in arms:
            records["self"] = _self_records(run, teacher, source, how, train.seed, console, say)
        if "original" in arms:
            records["original"] = original_records(source.parts)
        teacher.release()  # it has answered
        pair = load_pair(cut, teacher, train)
        if pair.uncut is not None:
            say("weights that the pruned model and its teacher have in common are in memory once")
        items = report_items(to_check(), in_full, say)
        examples_by_arm = {}
        for arm, answers in records.items():
            # A data set's own answers were not graded and need not be.
            filters = settings.filters.replace(right_only=False) if arm == "original" else settings.filters
            examples_by_arm[arm] = examples_of(answers, pair.cut, filters, items, train.max_length, arm, say)
        if train.is_graded:
            examples_by_arm[responses] = question_examples(source.parts, pair.cut, items, train.max_length, say)
        examples, counts = examples_by_arm[responses]
        if settings.match_tokens:
            examples = matched(
                {arm: made for arm, (made, _) in examples_by_arm.items()}, settings.responses, train.seed, say
            )
        data = split(examples, train, say)
        record = HealingRecord(
            method=train.method,
            objective=train.objective,
            **plan.gone,
            responses=responses,
            tokens_matched=settings.match_tokens,
            teacher=teacher_model.model,
            teacher_hash=teacher.metadata.model_hash,
            cut_hash=cut.metadata.model_hash,
            cut_from={"model": plan.model, "model_hash": plan.model_hash} if is_another else None,
            data_hash=data.hash,
            num_examples=len(data.train),
            num_held_out=len(data.held_out),
            loss_tokens=None if train.is_graded else data.num_tokens,
            **counts,
            selection_items=record_items(items_used(to_check(), in_full, source)),
        )
        job = HealingJob(
            run=run,
            cut=cut,
            teacher=teacher,
            pair=pair,
            plan=plan,
            data=data,
            records=records.get(responses, []),
            settings=settings,
            record=record,
            console=console,
            say=say,
            group=group,
            tasks=source.tasks,
        )
        del pair  # the job frees it
        job.train() if METHODS[train.method].made_by else job.seam()
        return ended(run, plan)


def ended(run: RunFolder, plan: CutPlan) -> Healed:
    """Write what comes after the checkpoint, read what it records, and remove what only continues the training."""
    remove_weights(run.path / TRAINING)
    run.write_metrics([], plan=plan.to_dict())
    folder = run.path / CHECKPOINT
    return Healed(folder, json.loads((folder / PLAN_FILE).read_text("utf-8"))["healing"][-1])


def _self_records(
    run: RunFolder, teacher: ModelHandle, source: PromptSource, how: Answering, seed: int, console: Console, say: Say
) -> list[AnswerRecord]:
    """The teacher's own answers: those of an earlier run, or generated now."""
    if source.records is not None:
        made_by = {record.get("model_hash") for record in source.records}
        if made_by != {teacher.metadata.model_hash} or any(
            record.get("removed") or record.get("channels") for record in source.records
        ):
            raise InputError(
                f"some of these answers are not from the original model {teacher.settings.model}; generate them with "
                f"it: layercut generate {teacher.settings.model} --prompts ... --out DIR."
            )
        return source.records
    return answers_of(teacher, teacher.plan(), source, how, seed, run.path, console, say)
