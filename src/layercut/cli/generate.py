"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from pathlib import Path
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
        Path | None, typer.Option(help="Prompts: .txt (one a line), .jsonl or .json, also .gz.", metavar="FILE")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated. Answers are printed.")] = None,
    remove: options.Remove = None,
    out: options.Out = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, rich_help_panel="Decoding", help="Longest answer.")] = 256,
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
    where it was stopped. Without, answers are printed.

    Example: layercut generate bundled:smollm2-135m --prompt "What is 12 + 7?" --remove 20-24
    """
    from layercut.healing.prompts import one_prompt, read_prompts
    from layercut.study.generate import answer_prompts

    if bool(prompts) == bool(prompt):
        raise InputError("give either --prompt TEXT or --prompts FILE.")
    if prompts and out is None:
        raise InputError("answers to a file of prompts need a folder: say --out DIR.")
    asked = (
        read_prompts(prompts, system=system, plain=plain)
        if prompts
        else [one_prompt(text, system=system, plain=plain) for text in prompt or []]
    )
    records, folder = answer_prompts(
        model,
        asked[:limit],
        remove=remove,
        out=out,
        seed=seed,
        decoding=decoding,
        max_new_tokens=max_new_tokens,
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
