"""``generate`` and ``heal``: which prompts a model answers, and which pruned model learns from which answers."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from layercut.base_settings import Names
from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptGroup,
    PromptReading,
    PromptSource,
    PromptSpec,
    answering_under,
    check_prompts,
    prompt_source,
    prompt_specs,
    under_preset,
)
from layercut.healing.prompts import AnswerRecord, make_prompt
from layercut.healing.settings import FilterSettings, HealSettings, TrainSettings
from layercut.selection.specs import Removed, check_fits, plan_of
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.tasks import TASKS
from layercut.tasks.suites import check_tasks, with_local_data
from layercut.text import count_of
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


class _PromptsVerb(Verb):
    """Base of verbs that have prompts answered."""

    @cached_property
    def files(self: Any) -> dict[str, str]:
        """Local data by task: what was given, and of every known task what the folder holds for it."""
        tasks = with_local_data(tuple(TaskSettings(task=name) for name in TASKS), {}, self.data_dir)
        return {task.task: task.data for task in tasks if task.data} | dict(self.data)

    @cached_property
    def specs(self: Any) -> tuple[PromptSpec, ...]:
        """Sources of prompts, as they are read."""
        read = self.reading.replace(shuffle_seed=self.seed)
        return prompt_specs(self.prompts or "", data=self.files, **read.as_dict())

    @cached_property
    def how(self: Any) -> Answering:
        """Answering under the preset."""
        return answering_under(self.preset, self.decoding, **self.answers.given())


class GenerateVerb(_PromptsVerb):
    """Let MODEL answer prompts, whole or without some layers.

    With --out every answer is appended to DIR/samples/responses.jsonl as it comes, and the same command again goes on
    where it was stopped. Without, answers are printed. Answers to a task's items are graded as they come.

    Example: layercut generate bundled:smollm2-135m --prompt "What is 12 + 7?" --remove 20-24
    """

    VERB = "generate"
    POSITIONAL = ("model", "prompts")
    RETURNS = "A record for each answer, in the order of the prompts."

    model: Annotated[ModelSettings, Fields("Model", shown="dtype device batch_size engine")]
    prompts: Annotated[str | None, Flag("SOURCE,SOURCE")] = Field(
        None, description=f"{fields.PROMPTS}. Several with commas between."
    )
    prompt: Annotated[Names, Flag("TEXT", repeated=True)] = Field(
        (), description="A prompt; may be repeated. Answers are printed."
    )
    remove: Annotated[Removed | None, Flag("LAYERS")] = Field(None, description=fields.REMOVE)
    out: fields.Out = Field(None, description="Folder to write to.")
    preset: str | None = Field(
        None,
        description="paper: system prompt, temperature 0.9, top-p 0.95, answers of 8192 tokens, where "
        "not said otherwise.",
    )
    data: fields.Data
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    plain: bool = Field(False, description="Continue the text as it stands, without chat template.")
    seed: fields.RandomSeed = 0
    answers: Annotated[Answering, Fields("Prompts", shown="max_new_tokens system", without="decoding")] = Answering()
    reading: Annotated[PromptReading, Fields("Prompts", shown="limit", without="shuffle_seed")] = PromptReading()
    decoding: Annotated[DecodingSettings, Fields("Decoding", shown="temperature top_p")] = DecodingSettings()

    def check(self) -> None:
        if bool(self.prompts) == bool(self.prompt):
            raise InputError("give either `prompt` TEXT or `prompts` SOURCE.")
        check_prompts(self.specs)
        _ = self.how

    def source(self) -> PromptSource:
        """The prompts. Raises InputError: a source that cannot be read, or that holds answers."""
        system = self.how.system
        if not self.prompts:
            prompts = [make_prompt(text, system=system, plain=self.plain) for text in self.prompt]
            return PromptSource(parts=(PromptGroup(prompts[: self.reading.limit]),))
        source = prompt_source(self.specs, system=system, plain=self.plain)
        if source.records is not None:
            raise InputError(f"{self.prompts} holds answers already; give a file of prompts, or task:NAME.")
        return source

    def fit(self) -> None:
        check_fits(self.model, [self.remove], self.seed)

    def run(self, io: Io) -> list[AnswerRecord]:
        from layercut.healing.generate import answer_prompts

        if self.prompts and self.out is None:
            raise InputError("answers to many prompts need a folder: say `out` DIR.")
        return answer_prompts(
            io.handle(self.model),
            self.source(),
            self.how,
            remove=self.remove,
            out=self.out,
            seed=self.seed,
            console=io.console,
            say=io.say,
        )

    def show(self, done: list[AnswerRecord], io: Io) -> Shown:
        lines = [record["completion"] for record in done]
        if self.out is not None:
            lines = [f"{count_of(len(done), 'answer')}: {self.out}/samples/responses.jsonl"]
        return Shown(done, lines=lines)

    def rehearse(self, io: Io) -> Shown:
        from layercut.engine.handle import ModelHandle
        from layercut.healing.outline import answers_outline

        handle = ModelHandle(self.model)
        plan = plan_of(handle, self.remove, self.seed)
        return shown_outline(answers_outline(handle, plan, self.source(), self.how, self.out))


def _teacher(teacher: Any) -> Any:
    return teacher.model if isinstance(teacher, ModelSettings) else teacher


class HealVerb(_PromptsVerb):
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
    out: Annotated[Path, Flag("DIR")] = Field(description="Run folder; the healed model is in DIR/checkpoint.")
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
