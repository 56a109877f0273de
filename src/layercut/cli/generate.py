"""``layercut generate``: let a model, whole or cut, answer prompts."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, as_json, result, show_estimate
from layercut.requests.generate import GenerateRequest
from layercut.text.counting import counted


@options.command
def generate(request: GenerateRequest, dry_run: options.DryRun = False, json: options.Json = False) -> None:
    """Run the request and print the answers, or where they are."""
    if dry_run:
        show_estimate(request.estimate(), json=json)
        return
    made = request.run(IO)
    if json:
        as_json(made.records)
    elif made.folder is None:
        for record in made.records:
            result(record["completion"])
    else:
        result(f"{counted(len(made.records), 'answer')}: {made.folder}/samples/responses.jsonl")
        if (samples := request.answers.samples) > 1:
            result(f"the best of each {samples}: {made.folder}/samples/choices.jsonl")
