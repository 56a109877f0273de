"""Run a healing job on prepared data: train or solve, merge, and write the checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.healing.examples import Data
from layercut.healing.heal_settings import HealSettings
from layercut.healing.learner import ACCURACY, accuracy_of_held_out
from layercut.healing.places import seams_of
from layercut.healing.process_group import ProcessGroup
from layercut.healing.settings import TrainSettings
from layercut.progress.watch import watched
from layercut.runs.directory import RunFolder
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.healing.task_prompts import TaskPrompts
    from layercut.models.loading import LoadedModel

CHECKPOINT, TRAINING = "checkpoint", "training"
STORED = Path("samples", "teacher-logits")


class Teacher:
    """The original model; its engine, and so its weights, can be let go."""

    def __init__(self, settings: ModelSettings) -> None:
        """Find the model; nothing is loaded yet."""
        self.settings = settings
        self.handle = ModelHandle(settings)

    def forget(self) -> None:
        """Let the weights go."""
        self.handle = ModelHandle(self.settings)


class ToTrain(NamedTuple):
    """What the first process of a group sends to the others."""

    data: Data
    folder: Path
    """Of the run."""
    plan: CutPlan


class HealingJob(NamedTuple):
    """One healing with its data at hand."""

    run: RunFolder
    cut: ModelHandle
    teacher: Teacher
    loaded: LoadedModel
    plan: CutPlan
    data: Data
    records: list[dict[str, Any]]
    settings: HealSettings
    healing: dict[str, Any]
    console: Console
    say: Callable[[str], None]
    card: str
    group: ProcessGroup
    tasks: list[TaskPrompts]
    """That the prompts come from, as far as they come from tasks."""

    def seam(self) -> dict[str, Any]:
        """Solve and fold."""
        from layercut.healing.merge import write_healed
        from layercut.healing.rounding import judged_by
        from layercut.healing.seam import repair_seams

        began = time.monotonic()
        uncut = load_cut(self.teacher.handle, self.settings.train)
        judge = judged_by(self.loaded.model, self.data)
        total = len(seams_of(self.plan)) * (len(self.data.train) + len(self.data.held_out))
        with watched("Reading both models", total, self.console, "texts") as on_progress:
            fits = repair_seams(
                self.loaded.model,
                uncut.model,
                self.plan,
                self.data,
                kind=self.settings.train.seam,
                on_progress=on_progress,
            )
        for fit in fits:
            self.say(fit.describe())
        healing = self.healing | {
            "seams": [fit.describe() for fit in fits],
            "seam_map": self.settings.train.seam,
            "settings": {name: getattr(self.settings.train, name) for name in ("held_out", "max_length", "seed")},
            "tokens": fits[0].num_tokens,
            "seconds": round(time.monotonic() - began, 1),
        }
        write = partial(write_healed, self.loaded.model, self.cut.source, dtype=self.settings.save_dtype, judge=judge)
        return self._write(healing, write, "")

    def train(self) -> dict[str, Any]:
        """Train, merge and write."""
        from layercut.healing.merge import trained_model, write_adapter, write_healed
        from layercut.healing.sft import CURVE, finished, train
        from layercut.healing.trainable import make_trainable, num_trainable

        settings, folder = self.settings.train, self.run.path / TRAINING
        trained = finished(folder)
        if trained is None:
            shared = ToTrain(self.data, self.run.path, self.plan)
            if settings.store_top_k is not None:
                self._store_logits(shared, settings.store_top_k)
            self.group.share(shared)
            options = objective_of(self.loaded, self.teacher, settings, shared, self.records)
            if settings.graded:
                options["look"] = accuracy_of_held_out(self.tasks, self.data, self.loaded, settings.graded)
            model = make_trainable(self.loaded.model, settings)
            self.say(f"{num_trainable(model):,} trainable parameters")
            with watched("Training", self._num_steps(), self.console, "steps") as on_progress:
                trained = train(
                    model, self.loaded.tokenizer, self.data, settings, folder, on_progress=on_progress, **options
                )
            self.group.leave()
        elif self.group.size > 1:
            self.group.share(None)
        healing = self.healing | {
            "settings": _settings_in_effect(settings),
            "steps": trained.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "stopped_early": trained.stopped_early,
            "looks": looks_of(trained.curve),
            "held_out_loss": trained.held_out,
        }
        if self.settings.keep_adapter:
            return self._write(healing, partial(write_adapter, self.cut.source, trained.final), "", CURVE)
        device = "cpu" if settings.method != "qlora" else "cuda"
        self.teacher.forget()
        self.say("folding in, writing and comparing with the trained model ...")
        whole = trained_model(self.cut.source, trained.final, settings.method, device, self.data)
        dtype = self.settings.save_dtype
        write = partial(write_healed, whole.model, self.cut.source, dtype=dtype, judge=whole.judge)
        return self._write(healing, write, whole.checked, CURVE)

    def _store_logits(self, shared: ToTrain, k: int) -> None:
        """Compute the teacher's distributions once at every position in the loss."""
        from layercut.healing.distill import check_teacher
        from layercut.healing.stored import StoredLogits

        stored = StoredLogits(shared.folder / STORED, shared.data, k)
        if not stored.is_whole_everywhere:
            uncut = load_cut(self.teacher.handle, self.settings.train.replace(method="lora"))
            check_teacher(self.loaded.model, uncut.model)
            name = "Storing the teacher's likeliest tokens"
            with watched(name, stored.num_examples, self.console, "examples") as on_progress:
                stored.fill(uncut.model, on_progress=on_progress)

    def _num_steps(self) -> int:
        settings = self.settings.train
        return settings.max_steps or max(1, math.ceil(settings.epochs * len(self.data.train) / settings.batch_size))

    def _write(
        self, healing: dict[str, Any], write: Callable[..., dict[str, Any]], checked: str, curve: str | None = None
    ) -> dict[str, Any]:
        from layercut.healing.merge import healed_card

        return write(
            out=self.run.path / CHECKPOINT,
            healing=healing | {"checked": [checked] if checked else []},
            card=partial(healed_card, self.card),
            curve=self.run.path / TRAINING / curve if curve else None,
        )


def looks_of(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The step and the shares of held-out questions that came right, of every look that asked some."""
    shares = [{name: value for name, value in line.items() if name.startswith(ACCURACY)} for line in curve]
    return [{"step": line["step"], **found} for line, found in zip(curve, shares, strict=True) if found]


def objective_of(
    loaded: LoadedModel, teacher: Teacher, settings: TrainSettings, shared: ToTrain, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the trainer gets beside the examples, such as the teacher."""
    if settings.objective == "sft":
        teacher.forget()
        return {}
    from layercut.healing.distill import DistillTrainer, check_teacher
    from layercut.healing.examples import encode_example
    from layercut.healing.hidden import HiddenTrainer
    from layercut.healing.on_policy import OnPolicyTrainer, RolloutLength
    from layercut.healing.places import check_layers
    from layercut.healing.stored import StoredLogits, StoredTrainer

    if settings.store_top_k is not None:
        teacher.forget()
        stored = StoredLogits(shared.folder / STORED, shared.data, settings.store_top_k)
        return {"trainer": StoredTrainer, "stored": stored}
    uncut = load_cut(teacher.handle, settings.replace(method="lora"))
    check_teacher(loaded.model, uncut.model)
    options: dict[str, Any] = {"teacher": uncut.model, "kind": settings.objective, "alpha": settings.jsd_alpha}
    if settings.objective == "hidden":
        check_layers(shared.plan, uncut.num_layers, loaded.num_layers)
        more = {"kind": "forward-kl", "plan": shared.plan, "weight": settings.hidden_weight}
        return options | more | {"trainer": HiddenTrainer}
    if settings.objective != "on-policy":
        return options | {"trainer": DistillTrainer}
    by_prompt = {encode_example(loaded.tokenizer, one).prompt: one for one in records if one["completion"]}
    length = RolloutLength(settings.rollout_start, settings.rollout_max)
    more = {"kind": "jsd", "cut": loaded, "records": by_prompt, "length": length, "drift": settings.drift_overlap}
    return options | more | {"trainer": OnPolicyTrainer}


def train_along(cut: ModelHandle, teacher: Teacher, settings: TrainSettings, shared: ToTrain) -> None:
    """The other processes of a group: train with the first one on the data it sent."""
    from layercut.healing.sft import train
    from layercut.healing.trainable import make_trainable

    loaded = load_cut(cut, settings)
    options = objective_of(loaded, teacher, settings, shared, [])
    model = make_trainable(loaded.model, settings)
    train(model, loaded.tokenizer, shared.data, settings, shared.folder / TRAINING, **options)


def load_cut(handle: ModelHandle, train: TrainSettings) -> LoadedModel:
    """A model as training wants it."""
    from layercut.healing.trainable import load_for_training

    return load_for_training(handle.source, train, dtype=handle.settings.dtype, device=handle.settings.device)


def _settings_in_effect(settings: TrainSettings) -> dict[str, Any]:
    """The settings that had an effect."""
    shared = settings.as_dict()
    unused = {
        "rank": settings.method in ("lora", "qlora"),
        "alpha": settings.method in ("lora", "qlora"),
        "dropout": settings.method in ("lora", "qlora"),
        "last_k": settings.method == "last-k",
        "jsd_alpha": settings.objective in ("jsd", "on-policy"),
        "rollout_start": settings.objective == "on-policy",
        "rollout_max": settings.objective == "on-policy",
        "drift_overlap": settings.objective == "on-policy",
        "hidden_weight": settings.objective == "hidden",
        "store_top_k": settings.store_top_k is not None,
        "seam": False,
        "report_to": False,
    }
    return {name: value for name, value in shared.items() if unused.get(name, True)}
