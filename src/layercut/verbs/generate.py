"""``generate``: which prompts a model answers, whole or without some layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from layercut.base_settings import Names
from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptGroup,
    PromptReading,
    PromptSource,
    check_prompts,
    prompt_source,
)
from layercut.healing.prompts import AnswerRecord, make_prompt
from layercut.selection.specs import Removed, check_fits, plan_of
from layercut.settings import DecodingSettings, ModelSettings
from layercut.text import count_of
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline


class GenerateVerb(fields.AsksPrompts, Verb):
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
