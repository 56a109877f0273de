"""``layercut push``: a checkpoint and its evidence to the hub."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show
from layercut.requests.push import PushRequest


@options.command
def push(request: PushRequest, dry_run: options.DryRun = False, json: options.Json = False) -> None:
    """Upload, or show what would be uploaded."""
    upload = request.upload
    front = upload.card.partition("---\n")[2].partition("---\n")[0].rstrip()
    last = "dry run: nothing was uploaded" if dry_run else f"uploaded: {request.run(IO)}"
    show(upload.to_dict(), lines=[*upload.lines(), "card metadata:", front, last], json=json)
