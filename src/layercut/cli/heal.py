"""``layercut heal``: let the original model teach the cut one."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show, show_outline
from layercut.requests.heal import HealRequest


@options.command
def heal(request: HealRequest, dry_run: options.DryRun = False, json: options.Json = False) -> None:
    """Run the request and show what healing did."""
    if dry_run:
        show_outline(request.outline(), json=json)
    elif (healed := request.run(IO)) is not None:  # None in the other processes of a launcher
        from layercut.report.reports import write_reports

        write_reports(request.out)
        show({"checkpoint": str(healed.checkpoint), **healed.healing}, lines=healed.lines(), json=json)
