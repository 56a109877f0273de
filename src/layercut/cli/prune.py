"""``layercut prune``: from a model and a goal to a checkpoint."""

from __future__ import annotations

import typer

from layercut.cli import options
from layercut.cli.console import IO, show, show_outline
from layercut.requests.prune import PruneRequest


@options.command
def prune(
    request: PruneRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.HiddenUnsafeExec = False,
    json: options.HiddenJson = False,
) -> None:
    """Run the request and show the answer."""
    if dry_run:
        show_outline(request.outline(), json=json)
        return
    from layercut.report.first import answer_lines, result_tables
    from layercut.report.reports import prune_reports

    done = request.run(IO)
    prune_reports(done.folder, seed=request.seed)
    result = done.result
    show(result.to_dict(), result_tables(result), answer_lines(result, done.folder), json=json)
    if done.checkpoint is None:
        raise typer.Exit(1)
