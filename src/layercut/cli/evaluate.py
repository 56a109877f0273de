"""``layercut eval``: score a model, whole or cut, on tasks."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import IO, as_json, out, result
from layercut.requests.evaluate import EvalRequest


@options.command
def evaluate(
    request: EvalRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the request and show scores, and with ``against`` what is kept."""
    from layercut.evidence.two_runs import compare_two, notes, open_run, to_dict
    from layercut.report.comparison import comparison_tables, discordance_table, discordances
    from layercut.report.runs import metrics_table
    from layercut.report.table import terminal

    base = open_run(request.against) if request.against else None
    if base is not None:
        base.metrics()  # says now whether it is not finished
    done = request.run(IO, dry_run=dry_run)
    if done is None:
        return
    runs = [] if base is None else [base, open_run(done.folder)]
    rows = compare_two(runs[0], runs[1], seed=request.seed) if runs else []
    if json:
        as_json({**done.metrics, "against": to_dict(rows, notes(*runs))} if runs else done.metrics)
        return
    out.print(metrics_table(done.metrics))
    for block in comparison_tables(rows):
        out.print(block)
    for line in notes(*runs) if runs else ():
        result(line)
    if apart := discordances(runs, rows):
        out.print("", terminal(discordance_table(apart)))
    result(f"run folder: {done.folder}")
