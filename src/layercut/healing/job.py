"""One healing with its prepared data: solve for maps or train, then write the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.healing.examples import Data
from layercut.healing.guard import Guard, GuardTask, trained_entry
from layercut.healing.learner import accuracy_of_held_out
from layercut.healing.objective import STORED, TRAINING, ToTrain, objective_of
from layercut.healing.pair import Pair, load_cut
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.settings import HealSettings
from layercut.models.loading import LoadedModel, load_model
from layercut.models.placement import give_back_memory
from layercut.progress import Say
from layercut.progress.bars import watched
from layercut.runs.directory import RunFolder
from layercut.runs.healing import ACCURACY, GUARD, guard_lines
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.healing.sft import Trained

CHECKPOINT = "checkpoint"


@dataclass
class HealingJob:
    """One healing and its prepared data."""

    run: RunFolder
    cut: ModelHandle
    teacher: ModelHandle
    pair: Pair | None
    """The models of the training; None once they are freed, before the checkpoint is written."""
    plan: CutPlan
    data: Data
    records: list[dict[str, Any]]
    settings: HealSettings
    healing: dict[str, Any]
    console: Console
    say: Say
    group: ProcessGroup
    tasks: list[TaskPrompts]
    guards: list[GuardTask]

    def seam(self) -> dict[str, Any]:
        """Solve for the maps, fold them in and write the checkpoint."""
        from layercut.healing.merge import write_healed
        from layercut.healing.rounding import Judge, judged_by
        from layercut.healing.seam import places_of, repair_seams

        began, loaded = time.monotonic(), self._loaded
        uncut = load_cut(self.teacher, self.settings.train)
        judge: Judge | None = judged_by(loaded.model, self.data)
        kind = self.settings.train.seam
        total = len(places_of(self.plan, kind)) * (len(self.data.train) + len(self.data.held_out))
        with watched("Reading both models", total, self.console, "texts") as on_progress:
            fits = repair_seams(loaded.model, uncut.model, self.plan, self.data, kind, on_progress=on_progress)
        for fit in fits:
            self.say(fit.describe())
        del uncut
        give_back_memory()
        guarded = self._guard_seam()
        healing = self.healing | {
            "seams": [fit.describe() for fit in fits],
            "seam_map": self.settings.train.seam,
            "settings": {name: getattr(self.settings.train, name) for name in ("held_out", "max_length", "seed")},
            "tokens": fits[0].num_tokens,
            "seconds": round(time.monotonic() - began, 1),
            **guarded,
        }
        if guarded and not guarded[GUARD]["strength"]:
            judge = None  # nothing was gained that rounding could lose
        write = partial(write_healed, loaded.model, self.cut.source, dtype=self.settings.save_dtype, judge=judge)
        return self._write(healing, write, "")

    @property
    def _loaded(self) -> LoadedModel:
        assert self.pair is not None, "the pruned model is needed"
        return self.pair.cut

    def _guard_seam(self) -> dict[str, Any]:
        """Weaken the maps until no guard is broken; the part of the healing's entry, empty without guard tasks."""
        from layercut.healing.strength import strongest_kept

        if not self.guards:
            return {}
        with ExitStack() as files:

            def journal(guard: GuardTask, strength: float) -> Journal:
                name = f"{guard.readout}.strength-{strength:g}"
                return files.enter_context(self.run.journal(guard.task.name, name))

            pruned = load_cut(self.cut, self.settings.train)
            entry = strongest_kept(self._loaded, pruned, self.guards, journal)
        return self._said(entry)

    def _said(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The guard's part of the healing's entry, after it was printed."""
        for line in guard_lines(entry):
            self.say(line)
        return entry

    def train(self) -> dict[str, Any]:
        """Train, merge and write the checkpoint."""
        from layercut.healing.merge import trained_model, write_adapter, write_healed
        from layercut.healing.sft import CURVE, finished

        settings, folder = self.settings.train, self.run.path / TRAINING
        trained = finished(folder)
        if trained is None:
            trained = self._trained()
        elif self.group.size > 1:
            self.group.share(None)
        self.pair = None  # what is written is loaded for itself
        give_back_memory()
        healing = self.healing | {
            "settings": settings.in_effect(),
            "steps": trained.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "stopped_early": trained.stopped_early,
            "looks": looks_of(trained.curve),
            "held_out_loss": trained.held_out,
        }
        if trained.kept_step is not None:
            healing |= self._said(trained_entry(trained.curve, trained.kept_step))
        if self.settings.keep_adapter:
            return self._write(healing, partial(write_adapter, self.cut.source, trained.final), "", CURVE)
        device = "cpu" if settings.method != "qlora" else "cuda"
        if trained.kept_step == 0:
            pruned = load_model(self.cut.source, dtype="float32", device=device).model
            write = partial(write_healed, pruned, self.cut.source, dtype=self.settings.save_dtype)
            return self._write(healing, write, "", CURVE)
        self.say("folding in, writing and comparing with the trained model ...")
        data: Data | None = self.data
        dtype = self.settings.save_dtype
        if settings.is_graded and dtype == "auto":  # a loss on given answers cannot say what rounding costs
            data, dtype = None, "float32"
        whole = trained_model(self.cut.source, trained.final, settings.method, device, data)
        write = partial(write_healed, whole.model, self.cut.source, dtype=dtype, judge=whole.judge)
        return self._write(healing, write, whole.checked, CURVE)

    def _trained(self) -> Trained:
        """Train; its models are freed with this call, apart from the job's pair."""
        from layercut.healing.memory_limit import within_memory
        from layercut.healing.sft import train
        from layercut.healing.trainable import make_trainable, num_trainable

        assert self.pair is not None, "models are freed after the training"
        settings, folder, loaded = self.settings.train, self.run.path / TRAINING, self._loaded
        shared = ToTrain(self.data, self.run.path, self.plan)
        if settings.store_top_k is not None:
            self._store_logits(shared, settings.store_top_k)
        self.group.share(shared)
        options = objective_of(self.pair, self.teacher, settings, shared, self.records, self.tasks)
        if settings.graded:
            options["look"] = accuracy_of_held_out(self.tasks, self.data, loaded, settings.graded)
        if self.guards:
            options["guard"] = Guard(self.guards, loaded)
        model = make_trainable(loaded.model, settings)
        self.say(f"{num_trainable(model):,} trainable parameters")
        settings = within_memory(
            self.cut, self.teacher if settings.needs_teacher else None, settings, self.data, self.say
        )
        with watched("Training", settings.num_steps(len(self.data.train)), self.console, "steps") as on_progress:
            trained = train(model, loaded.tokenizer, self.data, settings, folder, on_progress=on_progress, **options)
        self.group.leave()
        return trained

    def _store_logits(self, shared: ToTrain, k: int) -> None:
        """Compute the teacher's distributions once at every position in the loss."""
        from layercut.healing.distill import check_teacher
        from layercut.healing.stored import StoredLogits

        stored = StoredLogits(shared.folder / STORED, shared.data, k)
        if not stored.is_whole():
            uncut = load_cut(self.teacher, self.settings.train.replace(method="lora"))
            check_teacher(self._loaded.model, uncut.model)
            name = "Storing the teacher's likeliest tokens"
            with watched(name, stored.num_examples, self.console, "examples") as on_progress:
                stored.fill(uncut.model, on_progress=on_progress)

    def _write(
        self, healing: dict[str, Any], write: Callable[..., dict[str, Any]], checked: str, curve: str | None = None
    ) -> dict[str, Any]:
        return write(
            out=self.run.path / CHECKPOINT,
            healing=healing | {"checked": [checked] if checked else []},
            curve=self.run.path / TRAINING / curve if curve else None,
        )


def looks_of(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The step and the accuracies on held-out questions, of every evaluation that asked some."""
    shares = [{name: value for name, value in line.items() if name.startswith(ACCURACY)} for line in curve]
    return [{"step": line["step"], **found} for line, found in zip(curve, shares, strict=True) if found]
