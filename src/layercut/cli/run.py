"""``layercut run``: a whole study from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, out, result, say


def run(
    study: Annotated[Path, typer.Argument(help="YAML file, such as examples/quickstart.yaml.", metavar="FILE.yaml")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder in place of the file's.", metavar="DIR")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Root of all chance, in place of the file's.")] = None,
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Cut a model by several plans, measure it whole and cut, and report what was lost.

    The same command again goes on where it was stopped; finished items are never done again.

    Example: layercut run examples/quickstart.yaml
    """
    from layercut.report.tables import comparison_tables
    from layercut.study.run import run_study
    from layercut.study.settings import load_study
    from layercut.tasks.sandbox import allow_unsafe

    if unsafe_exec:
        allow_unsafe()
    outcome = run_study(
        load_study(study),
        out=out_folder,
        seed=seed,
        limit=limit,
        dry_run=dry_run,
        settings_file=str(study),
        console=log,
        say=say,
    )
    if outcome is None:
        return
    if json:
        as_json(outcome.to_dict())
        return
    for table in comparison_tables(outcome.rows):
        out.print(table)
    for name, path in outcome.paths.items():
        result(f"{name}: {path}")
