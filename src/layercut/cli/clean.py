"""``layercut clean``: remove what killed writes left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import result, say
from layercut.errors import InputError


def clean(
    root: Annotated[Path, typer.Argument(help="Folder to look in.", metavar="DIR")] = Path("runs"),
    dry_run: options.DryRun = False,
) -> None:
    """Remove half-written hidden folders and files of processes that are gone, below DIR and in layercut's cache.

    Finished checkpoints and runs, and what a running process is writing, are left alone.

    Example: layercut clean runs --dry-run
    """
    from layercut.models.cache import cache_dir
    from layercut.runs.disk import size
    from layercut.runs.leftovers import find_leftovers, remove_leftover

    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Give the folder that holds your runs or checkpoints.")
    found = {left.path.resolve(): left for folder in (root, cache_dir()) for left in find_leftovers(folder)}
    if not found:
        say(f"nothing is left of killed processes in {root}.")
    for left in found.values():
        gone = "would remove" if dry_run else "removed" if remove_leftover(left) else "in use, kept"
        result(f"{gone}: {left.path} ({size(left.num_bytes)})")
