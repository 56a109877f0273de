"""``layercut sweep``: how much each layer matters to each task."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show
from layercut.requests.sweep import SweepRequest


@options.command
def sweep(
    request: SweepRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the request and show its tables and files."""
    done = request.run(IO, dry_run=dry_run)
    if done is None:
        return
    from layercut.evidence.diagnosis import with_rows
    from layercut.report import sweep_text
    from layercut.report.diagnosis import layers
    from layercut.report.reports import write_reports
    from layercut.runs.directory import PAGE
    from layercut.selection.sweep import Swept

    write_reports(done.folder)
    if isinstance(done, Swept):
        files = {"report": sweep_text.REPORT, "picture": sweep_text.PLOT, "page": PAGE}
        lines = [f"{name}: {done.folder / file}" for name, file in files.items() if (done.folder / file).is_file()]
        show(done.sweep.to_dict(), sweep_text.sweep_tables(done.sweep), lines, json=json)
        return
    lines = [f"report: {done.report}", f"picture: {done.report.with_name(layers.PLOT)}"]
    show(done.data, layers.layers_table(with_rows(done.data)), lines, json=json)
