"""``heal``: which pruned model learns from which answers, and how."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptReading,
    PromptSource,
    check_prompts,
    prompt_source,
    under_preset,
)
from layercut.healing.settings import FilterSettings, HealSettings, TrainSettings
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.tasks.suites import check_tasks
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline

if TYPE_CHECKING:
    from layercut.healing.heal import Healed

_TRAINING = Fields(
    "Training",
    shown="method objective max_steps learning_rate rank batch_size",
    without="seed",
    names={"batch_size": "train_batch"},
)
_SHARED = ("dtype", "device", "batch_size", "engine", "engine_pool")
"""Settings that the original model has from the pruned one's."""


def _teacher(teacher: Any) -> Any:
    return teacher.model if isinstance(teacher, ModelSettings) else teacher


class HealVerb(fields.AsksPrompts, Verb):
    """Train MODEL, a pruned checkpoint, on the original model's answers.

    The training data holds no report item of the built-in tasks. The same command again goes on where it was
    stopped; answers, checkpoints and the loss curve stay in the run folder. Training defaults are the paper's.

    Example: layercut heal smollm2-27-layers --teacher bundled:smollm2-135m --prompts task:arithmetic --out runs/healed
    """

    VERB = "heal"
    POSITIONAL = ("model", "teacher", "prompts")
    RETURNS = "The folder of the healed checkpoint."

    model: Annotated[ModelSettings, Fields("Model", shown="device batch_size", without="quantize")]
    prompts: Annotated[str, Flag("SOURCE,SOURCE")] = Field(
        description=f"{fields.PROMPTS}. Several with commas between. Or a run folder of generate."
    )
    out: Annotated[fields.Folder, Flag("DIR")] = Field(description="Run folder; the healed model is in DIR/checkpoint.")
    teacher: Annotated[str, BeforeValidator(_teacher), Flag("UNCUT")] = Field(
        description="The original model, which answers and grades."
    )
    preset: str | None = Field(None, description="paper: answers and training as in arXiv:2602.01997.")
    data: fields.Data
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    seed: fields.RandomSeed = 42
    answers: Annotated[Answering, Fields("Prompts", shown="max_new_tokens", without="decoding")] = Answering()
    reading: Annotated[PromptReading, Fields("Prompts", shown="limit", without="shuffle_seed")] = PromptReading()
    filters: Annotated[
        FilterSettings,
        Fields("Filters", shown="right_only", names={"finished_only": "--finished-only/--keep-unfinished"}),
    ] = FilterSettings()
    train: Annotated[TrainSettings, _TRAINING] = TrainSettings()
    what: Annotated[HealSettings, Fields("Training", shown="responses", without="train filters data")] = HealSettings()
    decoding: Annotated[DecodingSettings, Fields("Decoding")] = DecodingSettings()

    def check(self) -> None:
        check_prompts(self.specs)
        check_tasks(TaskSettings(task=name) for name in self.what.decontaminate)
        _ = self.settings

    @cached_property
    def settings(self) -> HealSettings:
        """Training, filters and data under the preset."""
        train = under_preset(self.preset, self.train).replace(seed=self.seed)
        return self.what.replace(train=train, filters=self.filters, data=self.files)

    @property
    def uncut(self) -> ModelSettings:
        """The original model, loaded as the pruned one is."""
        return ModelSettings(model=self.teacher, **{name: getattr(self.model, name) for name in _SHARED})

    def source(self) -> PromptSource:
        """The prompts. Raises InputError: a source that cannot be read, or answers where prompts are needed."""

        source = prompt_source(self.specs, system=self.how.system)
        if self.what.responses == "original" and source.records is not None:
            raise InputError(f"{self.prompts} holds a model's answers, not original ones; give the file of prompts.")
        return source

    def run(self, io: Io) -> Healed | None:
        """Ask, train and write the healed checkpoint; None in all but the first process of a launcher.

        Raises:
            InputError: models, prompts or settings that cannot be used, or a run folder that holds another run.
            MissingExtra: TRL or PEFT is not installed, for methods other than ``seam``.
        """
        from layercut.healing.heal import heal_model

        return heal_model(
            self.model,
            self.uncut,
            self.source(),
            self.settings,
            self.how,
            out=self.out,
            console=io.console,
            say=io.say,
        )

    def rehearse(self, io: Io) -> Shown:
        from layercut.healing.outline import healing_outline

        how = self.source(), self.settings, self.how
        return shown_outline(healing_outline(self.model, self.uncut, *how, out=self.out))

    def show(self, done: Healed | None, io: Io) -> Shown:
        if done is None:  # in the other processes of a launcher
            return Shown(None)
        return Shown({"checkpoint": str(done.checkpoint), **done.healing}, lines=done.lines())

    def returned(self, done: Healed | None) -> Path:
        return self.out / "checkpoint"
