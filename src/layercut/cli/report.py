"""``layercut report``: make the reports of a finished run again, from its folder alone."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import result
from layercut.requests.results import ReportRequest


@options.command
def report(request: ReportRequest) -> None:
    """Write the reports and say where."""
    from layercut.report.reports import write_reports

    for name, path in write_reports(request.folder, more=request.more, texts=request.texts).items():
        result(f"{name}: {path}")
