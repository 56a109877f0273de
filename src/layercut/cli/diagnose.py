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
    from layercut.report.diagnosis.page import summary_lines
    from layercut.report.reports import write_reports

    if (done := request.run(IO, dry_run=dry_run)) is None:
        return
    page = write_reports(done.folder).get("page")
    lines = [*summary_lines(done.data), f"report: {done.report}", *([f"page: {page}"] if page else [])]
    show(done.data, lines=lines, json=json)
