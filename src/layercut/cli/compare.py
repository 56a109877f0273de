"""``layercut compare``: two runs of the same items, paired."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import say, show
from layercut.requests.results import CompareRequest


@options.command
def compare(request: CompareRequest, json: options.Json = False) -> None:
    """Compare and show tables."""
    from layercut.evidence.completions import as_plain, diagnose_runs
    from layercut.evidence.two_runs import compare_two, notes, open_run, to_dict
    from layercut.report.answers import answer_tables
    from layercut.report.comparison import two_runs, two_runs_table

    runs = open_run(request.first), open_run(request.second)
    rows = compare_two(*runs, seed=request.seed)
    remarks = notes(*runs)
    answers = diagnose_runs(runs, seed=request.seed)
    tables = (*two_runs_table(rows, remarks), *answer_tables(answers))
    if request.page is not None:
        from layercut.evidence.study import StudyResults
        from layercut.report.html.page import write_comparison

        study = StudyResults(runs[0], [runs[1]], rows, request.seed, [])
        say(f"page: {write_comparison(request.page, study, two_runs(rows, remarks))}")
    show({**to_dict(rows, remarks), "answers": as_plain(answers)}, tables, json=json)
