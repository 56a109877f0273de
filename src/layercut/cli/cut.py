"""``layercut cut``: write a checkpoint without some of its decoder layers."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show, warn
from layercut.requests.cut import CutRequest


@options.command
def cut(request: CutRequest, dry_run: options.DryRun = False, json: options.Json = False) -> None:
    """Run the request and show what was written."""
    done = request.run(IO, dry_run=dry_run)
    for text in done.warnings:
        warn(text)
    show(done.to_dict(), lines=done.lines(), json=json)
