"""``layercut select``: choose which layers go."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, show, show_outline
from layercut.requests.select import SelectRequest


@options.command
def select(
    request: SelectRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the request and show the ranking."""
    if dry_run:
        show_outline(request.outline(), json=json)
        return
    from layercut.report.selection import held_out_table, ranking_table

    done = request.run(IO)
    chosen, held = done.plan.to_dict(), held_out_table(done.plan.scores)
    tables = [ranking_table(chosen), *([] if held is None else [held])]
    show(chosen, tables, [f"{done.plan.criterion}: {done.plan.describe()}", f"plan: {done.path}"], json=json)
