"""``layercut draft``: a plan that makes a model write faster, as a draft of itself."""

from __future__ import annotations

import typer

from layercut.cli import options
from layercut.cli.console import IO, result, show, show_outline
from layercut.requests.draft import DraftRequest
from layercut.runs.draft import TIMES


@options.command
def draft(
    request: DraftRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.HiddenUnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the request and show the answer."""
    if dry_run:
        show_outline(request.outline(), json=json)
        return
    from layercut.report.draft import draft_reports, draft_tables
    from layercut.report.table import terminal

    done = request.run(IO)
    if done.result is None:
        result(f"times: {done.folder / TIMES}")
        return
    written = draft_reports(done.folder)
    checkpoint = done.result.checkpoint and (done.result.chosen.name or done.folder / done.result.checkpoint)
    lines = [
        done.result.why,
        *(f"{engine}: {command}" for engine, command in done.result.commands[:1]),
        f"draft: {checkpoint or 'not written, because it does not pay'}",
        f"page: {written['page']}",
    ]
    show(done.result.to_dict(), map(terminal, draft_tables(done.result)), lines, json=json)
    if done.result.verdict == "slower":
        raise typer.Exit(1)
