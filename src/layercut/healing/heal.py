"""Heal a pruned model in one resumable run: the teacher answers, filters apply, and the pruned model is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.checkpoint import Judge, judge_of_rounding
from layercut.healing.data import (
    BUILT_IN,
    examples_of,
    items_used,
    report_items,
    source_records,
    tasks_to_check,
)
from layercut.healing.examples import Data, hold_out
from layercut.healing.generate import gather_answers
from layercut.healing.outline import ProcessGroup, check_method, check_models, has_bfloat16
from layercut.healing.prompt_sources import Answering, PromptGroup, PromptSource
from layercut.healing.prompts import AnswerRecord
from layercut.healing.settings import METHODS, OBJECTIVES, HealSettings, TrainSettings, load_by_name
from layercut.healing.trainable import load_for_training, load_teacher, make_trainable, remove_weights
from layercut.models.loading import LoadedModel
from layercut.models.placement import give_back_memory
from layercut.models.weights import PLAN_FILE
from layercut.progress import Say
from layercut.progress.bars import progress_bar
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable_writing
from layercut.runs.healing import CHECKPOINT, healing_lines
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import announce_isolation
from layercut.tasks.selected_items import record_items
from layercut.text import count_of

if TYPE_CHECKING:
    from layercut.healing.sft import Trained

TRAINING = "training"


class Healed(NamedTuple):
    """The outcome of a healing."""

    checkpoint: Path
    healing: dict[str, Any]

    def lines(self) -> list[str]:
        """For people."""
        return [*healing_lines(self.healing), f"checkpoint: {self.checkpoint}"]


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
) -> Healed | None:
    """Heal a pruned model; ``layercut heal``. The same call again continues where it was stopped.

    In a process group all processes make the same call; the first one returns the outcome, the others None.

    Args:
        is_control: a model may be its own teacher: the variant of a study that trains the original model.

    Raises InputError: settings that do not fit each other or the models, or prompts that leave nothing to train on.
    """
    train, group = settings.train, ProcessGroup.of_this_process()
    is_graded = train.goal.is_graded
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    if group.rank > 0:
        check_method(train, group)
        shared: tuple[Data, Path] | None = group.share()
        if shared is not None:
            _train(cut, teacher, train, *shared, group)
        return None
    check_method(train, group, source)
    plan = check_models(cut, teacher, source, settings, is_control=is_control)
    run_settings = {
        "heal": settings.as_dict(),
        "cut": cut.describe(),
        "teacher": teacher.describe(),
        **source.asked(how, train.seed),
    }
    isolation = announce_isolation([part.task for part in source.tasks if part.task and is_graded], say)
    with resumable_writing(out), RunFolder.begin(out, run_settings, sandbox=isolation) as run:
        checkpoint, folder = run.path / CHECKPOINT, run.path / TRAINING
        if (checkpoint / PLAN_FILE).is_file():  # a checkpoint is complete or absent
            group.share(None)
        else:
            from layercut.healing.checkpoint import write_healed, write_trained

            answers = "own" if is_graded else settings.responses
            for line in (f"{cut_model.model}: {train.method}, {train.objective}, on {answers} answers", *source.notes):
                say(line)
            to_check = tasks_to_check((*BUILT_IN, *settings.decontaminate, *settings.data), settings.data)
            items = report_items(to_check, source, say)
            records = _answers_to_learn(run, teacher, source, settings, how, console, say)
            teacher.release()  # it has answered
            filters = None if is_graded else settings.filters
            if filters and answers == "original":  # they were not graded and need not be
                filters = filters.replace(right_only=False)
            what = "prompts" if is_graded else f"{answers} answers"
            examples, counts = examples_of(records, cut.weightless, filters, items, train.max_length, what, say)
            data = hold_out(examples, train.held_out, train.seed)
            num_tokens = sum(len(example.completion) for example in data.train)
            what = f"{count_of(len(data.train), 'example')} with {count_of(num_tokens, 'answer token')}"
            if is_graded:
                what = f"{count_of(len(data.train), 'prompt')}, {train.group} answers to each at a time"
            say(f"training on {what}, {len(data.held_out)} held out (data {data.hash})")
            record = {
                "method": train.method,
                "objective": train.objective,
                "graded": is_graded,
                **plan.gone,
                "responses": answers,
                "teacher": teacher_model.model,
                "teacher_hash": teacher.metadata.model_hash,
                "cut_hash": cut.metadata.model_hash,
                "data_hash": data.hash,
                "num_examples": len(data.train),
                "num_held_out": len(data.held_out),
                **({} if is_graded else {"loss_tokens": num_tokens}),
                **counts,
                "selection_items": record_items(items_used(to_check, source)),
            }
            if not METHODS[train.method].repairs:
                from layercut.healing.sft import finished_training, training_record

                trained = finished_training(folder)
                group.share(None if trained else (data, folder))
                if trained is None:
                    trained = _train(cut, teacher, train, data, folder, group, records, source.tasks, console, say)
                give_back_memory()  # what is written is loaded for itself
                record |= training_record(trained, train)
                write_trained(cut.source, trained.final, settings, data, out=checkpoint, record=record, say=say)
            else:
                model, judge, repaired = _repair(cut, teacher, plan, data, train, console, say)
                record, dtype = record | repaired, settings.save_dtype
                write_healed(model, cut.source, out=checkpoint, record=record, dtype=dtype, judge=judge)
        remove_weights(folder)
        run.write_metrics([], plan=plan.to_dict())
        return Healed(checkpoint, json.loads((checkpoint / PLAN_FILE).read_text("utf-8"))["healing"][-1])


def _answers_to_learn(
    run: RunFolder,
    teacher: ModelHandle,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    console: Console,
    say: Say,
) -> list[AnswerRecord]:
    """The answers that training needs: the teacher's, of an earlier run or generated now, or those of the data set.

    A model that answers itself while it is trained has the prompts alone.
    """
    if settings.train.goal.is_graded or settings.responses == "original":
        return source_records(source.parts, need_answers=not settings.train.goal.is_graded)
    if source.records is None:
        return gather_answers(teacher, teacher.plan(), source, how, settings.train.seed, run.path, console)
    uncut: tuple[Any, ...] = (teacher.metadata.model_hash, [], None)
    if any((made.get("model_hash"), made.get("removed", []), made.get("channels")) != uncut for made in source.records):
        name = teacher.settings.model
        raise InputError(
            f"some answers are not from the original {name}; ask it: layercut generate {name} --prompts ... --out DIR."
        )
    return source.records


def _repair(
    cut: ModelHandle, teacher: ModelHandle, plan: CutPlan, data: Data, train: TrainSettings, console: Console, say: Say
) -> tuple[Any, Judge, dict[str, Any]]:
    """The pruned model with maps at its seams, solved for in closed form; what judges it; and what the record gets."""
    began, repair = time.monotonic(), load_by_name(str(METHODS[train.method].repairs))
    model = load_for_training(cut, train).model
    judge, half = judge_of_rounding(model, data), train.autocasts(has_bfloat16=has_bfloat16(cut))
    uncut = load_teacher(teacher, cut, train).model  # from here on both are in memory
    with progress_bar("Reading both models", len(data.train) + len(data.held_out), console, "texts") as on_progress:
        fits = repair(model, uncut, plan, data, train.seam, half=half, on_progress=on_progress)
    del uncut
    give_back_memory()
    lines = [fit.describe() for fit in fits]
    for line in lines:
        say(line)
    return (
        model,
        judge,
        {
            "seams": lines,
            "seam_map": train.seam,
            "settings": {name: getattr(train, name) for name in ("held_out", "max_length", "seed")},
            "tokens": fits[0].num_tokens,
            "seconds": round(time.monotonic() - began, 1),
        },
    )


def _train(
    cut: ModelHandle,
    teacher: ModelHandle,
    settings: TrainSettings,
    data: Data,
    folder: Path,
    group: ProcessGroup,
    records: Sequence[AnswerRecord] = (),
    tasks: Sequence[PromptGroup] = (),
    console: Console | None = None,
    say: Say = lambda text: None,
) -> Trained:
    """Train in every process of a group; the models are freed with this call."""
    from layercut.healing.sft import train_model

    loaded = load_for_training(cut, settings)
    uncut = load_teacher(teacher, cut, TrainSettings()) if settings.goal.divergence else None
    options = objective_of(loaded, uncut, settings, data, records, tasks)
    model = make_trainable(loaded.model, settings)
    say(f"{sum(weight.numel() for weight in model.parameters() if weight.requires_grad):,} trainable parameters")
    steps, console = settings.num_steps(len(data.train)), console or Console(quiet=True)
    with progress_bar("Training", steps, console, "steps") as on_progress:
        options |= {"on_progress": on_progress, "num_processes": group.size}
        trained = train_model(model, loaded.tokenizer, data, settings, folder, **options)
    group.leave()
    return trained


def objective_of(
    cut: LoadedModel,
    uncut: LoadedModel | None,
    settings: TrainSettings,
    data: Data,
    records: Sequence[AnswerRecord] = (),
    tasks: Sequence[PromptGroup] = (),
) -> dict[str, Any]:
    """Options of ``train_model`` that an objective needs, such as its trainer and the teacher.

    ``uncut``: where the objective needs it; ``records`` are the answers behind the data, ``tasks`` grade answers.
    """
    trainer = load_by_name(OBJECTIVES[settings.objective].trainer)
    teacher = None if uncut is None else uncut.model
    options = trainer.options(cut=cut, teacher=teacher, settings=settings, data=data, records=records, tasks=tasks)
    return {"trainer": trainer, **options}
