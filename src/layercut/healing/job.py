"""One healing with its prepared data: solve for maps or train by an objective, then write the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.healing.data import Material
from layercut.healing.distill import trim_teacher
from layercut.healing.examples import Data
from layercut.healing.memory import has_bfloat16
from layercut.healing.methods import METHODS, OBJECTIVES, named_in
from layercut.healing.pair import Pair, load_cut, load_pair
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.prompts import AnswerRecord
from layercut.healing.record import HealingRecord
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.models.placement import give_back_memory
from layercut.progress import Say
from layercut.progress.bars import watched
from layercut.runs.directory import RunFolder
from layercut.runs.healing import ACCURACY, CHECKPOINT, MARKS
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.healing.sft import Trained

TRAINING = "training"


class ToTrain(NamedTuple):
    """Message of the first process of a group to the others."""

    data: Data
    folder: Path


def objective_of(
    pair: Pair,
    teacher: ModelHandle,
    settings: TrainSettings,
    shared: ToTrain,
    records: list[AnswerRecord],
    tasks: Sequence[TaskPrompts] = (),
) -> dict[str, Any]:
    """Options of ``train`` that an objective needs, such as its trainer and the teacher.

    ``records`` are the answers that the data come from; ``tasks`` grade answers.
    """
    row = OBJECTIVES[settings.objective]
    trainer = named_in(row.trainer)
    uncut = (pair.uncut or load_cut(teacher, TrainSettings())).model if row.divergence else None
    if uncut is not None:
        trim_teacher(uncut, pair.cut.source.path)
    return {
        "trainer": trainer,
        **trainer.options(Material(pair.cut, uncut, settings, shared.data, records, tasks)),
    }


def train_along(cut: ModelHandle, teacher: ModelHandle, settings: TrainSettings, shared: ToTrain) -> None:
    """Training in the other processes of a group, on the data that the first one sent."""
    from layercut.healing.sft import train
    from layercut.healing.trainable import make_trainable

    pair = load_pair(cut, teacher, settings)
    options = objective_of(pair, teacher, settings, shared, [])
    model = make_trainable(pair.cut.model, settings)
    train(model, pair.cut.tokenizer, shared.data, settings, shared.folder / TRAINING, **options)


@dataclass
class HealingJob:
    """One healing and its prepared data."""

    run: RunFolder
    cut: ModelHandle
    teacher: ModelHandle
    pair: Pair | None  # the models of the training; None once they are freed, before the checkpoint is written
    plan: CutPlan
    data: Data
    records: list[AnswerRecord]
    settings: HealSettings
    record: HealingRecord
    console: Console
    say: Say
    group: ProcessGroup
    tasks: list[TaskPrompts]

    def seam(self) -> None:
        """Solve for the maps, fold them in and write the checkpoint."""
        from layercut.healing.checkpoint import judged_by, write_healed
        from layercut.healing.seam import places_of, repair_seams

        assert self.pair is not None, "the pruned model is needed"
        began, loaded = time.monotonic(), self.pair.cut
        uncut = load_cut(self.teacher, self.settings.train)
        judge = judged_by(loaded.model, self.data)
        kind = self.settings.train.seam
        half = self.settings.train.autocasts(has_bfloat16=has_bfloat16(self.cut))
        total = len(places_of(self.plan, kind)) * (len(self.data.train) + len(self.data.held_out))
        with watched("Reading both models", total, self.console, "texts") as on_progress:
            fits = repair_seams(
                loaded.model, uncut.model, self.plan, self.data, kind, half=half, on_progress=on_progress
            )
        for fit in fits:
            self.say(fit.describe())
        del uncut
        give_back_memory()
        record = replace(
            self.record,
            seams=[fit.describe() for fit in fits],
            seam_map=kind,
            settings={name: getattr(self.settings.train, name) for name in ("held_out", "max_length", "seed")},
            tokens=fits[0].num_tokens,
            seconds=round(time.monotonic() - began, 1),
        )
        out, dtype = self.run.path / CHECKPOINT, self.settings.save_dtype
        write_healed(loaded.model, self.cut.source, out=out, record=record, dtype=dtype, judge=judge)

    def train(self) -> None:
        """Train, merge and write the checkpoint."""
        from layercut.healing.sft import CURVE, finished, learned

        settings, folder = self.settings.train, self.run.path / TRAINING
        trained = finished(folder)
        if trained is None:
            trained = self._trained()
        elif self.group.size > 1:
            self.group.share(None)
        self.pair = None  # what is written is loaded for itself
        give_back_memory()
        record = replace(
            self.record,
            settings=settings.in_effect(),
            steps=trained.steps,
            tokens=trained.tokens,
            seconds=round(trained.seconds, 1),
            stopped_early=trained.stopped_early,
            looks=looks_of(trained.curve),
            held_out_loss=trained.held_out,
        )
        if not settings.answers_itself:
            tokens = [*islice(learned(self.data.train, settings), trained.steps)]
            record = replace(record, answer_tokens=tokens[-1])
        for kept in sorted((folder / MARKS).glob("*"), key=lambda path: int(path.name)):
            out = self.run.path / MARKS / kept.name
            if not out.exists():
                self._write_trained(kept, replace(record, mark=int(kept.name)), out)
        self._write_trained(trained.final, record, self.run.path / CHECKPOINT, folder / CURVE)

    def _write_trained(self, final: Path, record: HealingRecord, out: Path, curve: Path | None = None) -> None:
        """Write trained weights: a whole model, or the adapters alone."""
        from layercut.healing.checkpoint import trained_model, write_adapter, write_healed

        if self.settings.keep_adapter:
            write_adapter(self.cut.source, final, out=out, record=record, curve=curve)
            return
        self.say("folding in, writing and comparing with the trained model ...")
        train, dtype = self.settings.train, self.settings.save_dtype
        data = None if train.is_graded else self.data  # a loss on given answers cannot say what rounding costs
        model, checked, judge = trained_model(self.cut.source, final, METHODS[train.method], data)
        record = replace(record, checked=[checked] if checked else [])
        write_healed(model, self.cut.source, out=out, record=record, curve=curve, dtype=dtype, judge=judge)

    def _trained(self) -> Trained:
        """Train; its models are freed with this call, apart from the job's pair."""
        from layercut.healing.memory import within_memory
        from layercut.healing.sft import train
        from layercut.healing.trainable import make_trainable, num_trainable

        assert self.pair is not None, "models are freed after the training"
        settings, folder, loaded = self.settings.train, self.run.path / TRAINING, self.pair.cut
        shared = ToTrain(self.data, self.run.path)
        self.group.share(shared)
        options = objective_of(self.pair, self.teacher, settings, shared, self.records, self.tasks)
        if settings.graded:
            from layercut.healing.on_policy import accuracy_of_held_out

            options["look"] = accuracy_of_held_out(self.tasks, self.data, loaded, settings.graded)
        model = make_trainable(loaded.model, settings)
        self.say(f"{num_trainable(model):,} trainable parameters")
        settings = within_memory(
            self.cut, self.teacher if settings.needs_teacher else None, settings, self.data, self.say
        )
        with watched("Training", settings.num_steps(len(self.data.train)), self.console, "steps") as on_progress:
            trained = train(model, loaded.tokenizer, self.data, settings, folder, on_progress=on_progress, **options)
        self.group.leave()
        return trained


def looks_of(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The step and the accuracies on held-out questions, of every evaluation that asked some."""
    shares = [{name: value for name, value in line.items() if name.startswith(ACCURACY)} for line in curve]
    return [{"step": line["step"], **share} for line, share in zip(curve, shares, strict=True) if share]
