"""``layercut ls``: the runs below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, out, say


def ls(
    root: Annotated[Path, typer.Argument(help="Folder to look in.", metavar="DIR")] = Path("runs"),
    json: options.Json = False,
) -> None:
    """List runs with their state, age and headline, and what killed writes left."""
    from layercut.report.runs import runs_table
    from layercut.runs.directory import find_runs
    from layercut.runs.disk import size
    from layercut.runs.leftovers import find_leftovers

    found = find_runs(root)
    if json:
        as_json([run.to_dict() for run in found])
    elif found:
        out.print(runs_table(found))
    else:
        say(f"no runs in {root}; `layercut run examples/quickstart.yaml` makes one.")
    left = find_leftovers(root)
    for one in left:
        say(f"left by a killed process: {one.path} ({size(one.num_bytes)})")
    if left:
        total = size(sum(one.num_bytes for one in left))
        say(f"{total} in all. Their writers are gone, so they can be removed.")
