"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, as_json, result, show_outline
from layercut.requests.generate import GenerateRequest
from layercut.text.counting import counted


@options.command
def generate(request: GenerateRequest, dry_run: options.DryRun = False, json: options.Json = False) -> None:
    """Run the request and print the answers, or where they are."""
    if dry_run:
        show_outline(request.outline(), json=json)
        return
    made = request.run(IO)
    if json:
        as_json(made)
    elif request.out is None:
        for record in made:
            result(record["completion"])
    else:
        result(f"{counted(len(made), 'answer')}: {request.out}/samples/responses.jsonl")
