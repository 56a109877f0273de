"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, result, say, show_estimate
from layercut.errors import InputError
from layercut.settings import DecodingSettings, ModelSettings
from layercut.text.counting import counted


@options.model_command()
def generate(
    model: ModelSettings,
    decoding: DecodingSettings,
    prompts: Annotated[
        str | None,
        typer.Option(help=f"{options.PROMPTS}. Several with commas between.", metavar="SOURCE,SOURCE"),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated. Answers are printed.")] = None,
    remove: options.Remove = None,
    out: options.Out = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: system prompt, temperature 0.9, top-p 0.95, answers of 8192 tokens, prompts of 8000, hub data "
            "sets shuffled through 500,000 rows, where not said otherwise."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel="Decoding", help="Longest answer; if left out, the task's own, or 256."),
    ] = None,
    readout: Annotated[str | None, typer.Option(help="How a task's items are asked: chain or short.")] = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    samples: options.Samples = 1,
    max_prompt_tokens: options.MaxPromptTokens = None,
    shuffle_buffer: options.ShuffleBuffer = None,
    system: Annotated[str | None, typer.Option(help="System message for conversations that have none.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the text as it stands, without chat template.")
    ] = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Let MODEL answer prompts, whole or without the layers that --remove names.

    With --out every answer is appended to DIR/samples/responses.jsonl as it comes, and the same command again goes on
    where it was stopped. Without, answers are printed. Answers to a task's items are graded as they come. Of several
    --samples a prompt, DIR/samples/choices.jsonl names the best.

    Example: layercut generate bundled:smollm2-135m --prompt "What is 12 + 7?" --remove 20-24
    """
    from layercut.healing.prompt_sources import (
        SHUFFLE_BUFFER,
        PromptGroup,
        PromptSource,
        answering,
        prompt_source,
        prompt_specs,
    )
    from layercut.study.checks import check_plans, check_prompts

    if bool(prompts) == bool(prompt):
        raise InputError("give either --prompt TEXT or --prompts SOURCE.")
    if prompts and out is None and not dry_run:
        raise InputError("answers to many prompts need a folder: say --out DIR.")
    how = answering(preset, decoding, max_new_tokens, system, samples=samples, max_prompt_tokens=max_prompt_tokens)
    check_plans(model, [remove], seed)

    from layercut.engine.handle import ModelHandle
    from layercut.healing.estimate import estimate_answers
    from layercut.healing.generate import answer_prompts
    from layercut.healing.prompts import PromptWithAnswer, one_prompt
    from layercut.selection.specs import plan_of

    if prompts:
        specs = prompt_specs(
            prompts,
            readout=readout,
            data=options.local_data(data, data_dir),
            limit=limit,
            shuffle_buffer=SHUFFLE_BUFFER[preset] if shuffle_buffer is None else shuffle_buffer,
            shuffle_seed=seed,
        )
        check_prompts((spec.source, spec.readout) for spec in specs)
        source = prompt_source(specs, system=how.system, plain=plain)
        if source.records is not None:
            raise InputError(f"{prompts} holds answers already; give a file of prompts, or task:NAME.")
    else:
        given = [one_prompt(text, system=how.system, plain=plain) for text in prompt or []]
        source = PromptSource(parts=(PromptGroup([PromptWithAnswer(one, "") for one in given[:limit]]),))
    if dry_run:
        handle = ModelHandle(model)
        show_estimate(estimate_answers(handle, plan_of(handle, remove, seed), source, how, out), json=json)
        return
    answers = answer_prompts(model, source, how, remove=remove, out=out, seed=seed, console=log, say=say)
    if json:
        as_json(answers.records)
    elif answers.folder is None:
        for record in answers.records:
            result(record["completion"])
    else:
        result(f"{counted(len(answers.records), 'answer')}: {answers.folder}/samples/responses.jsonl")
        if samples > 1:
            result(f"the best of each {samples}: {answers.folder}/samples/choices.jsonl")
