"""``layercut diagnose``: what exactly broke in a pruned model."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show
from layercut.requests.diagnose import DiagnoseRequest


@options.command
def diagnose(
    request: DiagnoseRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the request and show what broke."""
    from layercut.report.html.page import PAGE

    if (done := request.run(IO, dry_run=dry_run)) is None:
        return
    page = done.report.with_name(PAGE)
    lines = [*done.lines, f"report: {done.report}", *([f"page: {page}"] if page.is_file() else [])]
    show(done.data, lines=lines, json=json)
