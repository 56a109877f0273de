"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, result, say, show_estimate
from layercut.cli.options import Flags
from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptGroup,
    PromptReading,
    PromptSource,
    answering,
    prompt_source,
    prompt_specs,
    under_preset,
)
from layercut.settings import DecodingSettings, ModelSettings
from layercut.text.counting import counted


@options.command(hidden="data_dir")
def generate(
    model: Annotated[ModelSettings, Flags("Model", shown="dtype device batch_size engine")],
    decoding: Annotated[DecodingSettings, Flags("Decoding", shown="temperature top_p")],
    answers: Annotated[Answering, Flags("Prompts", shown="max_new_tokens system", without="decoding")],
    reading: Annotated[PromptReading, Flags("Prompts", shown="limit readout", without="shuffle_seed")],
    prompts: Annotated[
        str | None, typer.Option(help=f"{options.PROMPTS}. Several with commas between.", metavar="SOURCE,SOURCE")
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
    data: options.Data = None,
    data_dir: options.DataDir = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the text as it stands, without chat template.")
    ] = False,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Let MODEL answer prompts, whole or without the layers that --remove names.

    With --out every answer is appended to DIR/samples/responses.jsonl as it comes, and the same command again goes on
    where it was stopped. Without, answers are printed. Answers to a task's items are graded as they come.

    Example: layercut generate bundled:smollm2-135m --prompt "What is 12 + 7?" --remove 20-24
    """
    from layercut.study.checks import check_plans, check_prompts

    if bool(prompts) == bool(prompt):
        raise InputError("give either --prompt TEXT or --prompts SOURCE.")
    if prompts and out is None and not dry_run:
        raise InputError("answers to many prompts need a folder: say --out DIR.")
    how = answering(preset, decoding, **answers.given())
    check_plans(model, [remove], seed)

    from layercut.engine.handle import ModelHandle
    from layercut.healing.generate import answer_prompts
    from layercut.healing.prompts import PromptWithAnswer, one_prompt
    from layercut.selection.specs import plan_of

    if prompts:
        read = under_preset(preset, reading).replace(shuffle_seed=seed)
        specs = prompt_specs(prompts, data=options.local_data(data, data_dir), **read.as_dict())
        check_prompts((spec.source, spec.readout) for spec in specs)
        source = prompt_source(specs, system=how.system, plain=plain)
        if source.records is not None:
            raise InputError(f"{prompts} holds answers already; give a file of prompts, or task:NAME.")
    else:
        given = [one_prompt(text, system=how.system, plain=plain) for text in prompt or []]
        source = PromptSource(parts=(PromptGroup([PromptWithAnswer(one, "") for one in given[: reading.limit]]),))
    if dry_run:
        from layercut.healing.estimate import estimate_answers

        handle = ModelHandle(model)
        show_estimate(estimate_answers(handle, plan_of(handle, remove, seed), source, how, out), json=json)
        return
    made = answer_prompts(model, source, how, remove=remove, out=out, seed=seed, console=log, say=say)
    if json:
        as_json(made)
    elif out is None:
        for record in made:
            result(record["completion"])
    else:
        result(f"{counted(len(made), 'answer')}: {out}/samples/responses.jsonl")
