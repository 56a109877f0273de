"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, result, say
from layercut.errors import InputError
from layercut.study.settings import DecodingSettings, ModelSettings


@options.model_command()
def generate(
    model: ModelSettings,
    decoding: DecodingSettings,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompts: .txt (one a line), .jsonl or .json, also .gz; or task:NAME for a task's selection items.",
            metavar="SOURCE,SOURCE",
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated. Answers are printed.")] = None,
    remove: options.Remove = None,
    out: options.Out = None,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: system prompt, temperature 0.9, top-p 0.95, 8192 tokens, where not said otherwise."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel="Decoding", help="Longest answer; if left out, the task's own, or 256."),
    ] = None,
    readout: Annotated[str | None, typer.Option(help="How a task's items are asked: chain or short.")] = None,
    data: options.Data = None,
    system: Annotated[str | None, typer.Option(help="System message for conversations that have none.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Continue the text as it stands, without chat template.")
    ] = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Let MODEL answer prompts, whole or without the layers that --remove names.

    With --out every answer is appended to DIR/samples/responses.jsonl as it comes, and the same command again goes on
    where it was stopped. Without, answers are printed. Answers to a task's items are graded as they come.

    Example: layercut generate bundled:smollm2-135m --prompt "What is 12 + 7?" --remove 20-24
    """
    from layercut.healing.prompts import Answered, one_prompt
    from layercut.study.generate import answer_prompts
    from layercut.study.prompts import Part, PromptSource, answering, prompt_source, prompt_specs

    if bool(prompts) == bool(prompt):
        raise InputError("give either --prompt TEXT or --prompts SOURCE.")
    if prompts and out is None:
        raise InputError("answers to many prompts need a folder: say --out DIR.")
    how = answering(preset, decoding, max_new_tokens, system)
    if prompts:
        specs = prompt_specs(prompts, readout=readout, data=options.local_files(data), limit=limit)
        source = prompt_source(specs, system=how.system, plain=plain)
        if source.records is not None:
            raise InputError(f"{prompts} holds answers already; give a file of prompts, or task:NAME.")
    else:
        given = [one_prompt(text, system=how.system, plain=plain) for text in prompt or []]
        source = PromptSource(parts=(Part([Answered(one, "") for one in given[:limit]]),))
    records, folder = answer_prompts(
        model,
        source,
        remove=remove,
        out=out,
        seed=seed,
        decoding=how.decoding,
        max_new_tokens=how.max_new_tokens or source.max_new_tokens,
        console=log,
        say=say,
    )
    if json:
        as_json(records)
    elif folder is None:
        for record in records:
            result(record["completion"])
    else:
        result(f"{len(records)} answers: {folder}/samples/responses.jsonl")
