"""``layercut run``: a whole study, or the request of any verb, from one YAML file."""

from __future__ import annotations

import inspect

import typer

from layercut.cli import options
from layercut.cli.console import IO, as_json, out, result, say, show, warn
from layercut.requests.study import StudyRequest

MOST_LINES = 4
"""Checkpoints that are listed one by one."""


@options.command
def run(
    request: StudyRequest,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run the study and show what is kept; or do what another verb does with its request."""
    if request.other is not None:
        from layercut.cli.main import door

        asked = door(request.other.VERB)
        own = {"dry_run": dry_run, "json": json, "unsafe_exec": unsafe_exec}
        takes = inspect.signature(asked).parameters
        with request.trust():
            asked(request.other, **{name: one for name, one in own.items() if name in takes})
        return
    if dry_run:
        outlines = request.outlines()
        data, lines = [one.to_dict() for one in outlines], [line for one in outlines for line in ("", *one.lines())]
        show(data, lines=lines, json=json)
        return
    from layercut.report.comparison import comparison_tables
    from layercut.report.reports import study_reports
    from layercut.runs.study import STEPS
    from layercut.text.counting import counted

    outcomes = []
    for done in request.run(IO):
        outcomes.append(done._replace(paths=study_reports(done.folder, done.study) | done.paths))
    failed = [line for outcome in outcomes for line in outcome.failed]
    if json:
        as_json(outcomes[0].to_dict() if len(outcomes) == 1 else [outcome.to_dict() for outcome in outcomes])
    for outcome in () if json else outcomes:
        if len(outcomes) > 1:
            result(f"\n{outcome.model}")
        for table in comparison_tables(outcome.rows):
            out.print(table)
        reports = ("page", "report", *STEPS)
        checkpoints = sum(name not in reports for name in outcome.paths)
        for name, path in outcome.paths.items():
            if name in reports or checkpoints <= MOST_LINES:
                result(f"{name}: {path}")
        if checkpoints > MOST_LINES:
            result(f"{checkpoints} checkpoints: ARM/checkpoint, and CUT/heal-ARM/checkpoint, in the study's folder")
    if failed:
        for line in failed:
            warn(line)
        say(
            f"{counted(len(failed), 'step')} of the study failed; the same command tries again what "
            "failed, and nothing else."
        )
        raise typer.Exit(1)
