"""``layercut run``: a whole study from one YAML file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, out, result, say, show, warn
from layercut.errors import InputError

MOST_LINES = 4
"""Checkpoints that are listed one by one."""


def run(
    study: Annotated[Path, typer.Argument(help="YAML file, such as examples/quickstart.yaml.", metavar="FILE.yaml")],
    out_folder: Annotated[Path | None, options.out_to("Run folder in place of the file's.")] = None,
    seed: options.StudySeed = None,
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    trust_study_code: Annotated[
        bool,
        typer.Option(
            "--trust-study-code",
            help="Let the file name code to be run: my.module:function, and trust_remote_code of a model.",
        ),
    ] = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Run a whole study: models, criteria, depths, healing arms, tasks, readouts and seeds, and report what was lost.

    The same command again goes on where it was stopped. Finished items are never done again, also those of another
    study of the same model beside this one. What fails is noted and the rest goes on; exit code 1 says so, and the same
    command tries it again.

    Example: layercut run examples/quickstart.yaml
    """
    from layercut.runs.foreign_code import untrusted

    with nullcontext() if trust_study_code else untrusted(str(study)):
        _run(study, out_folder, seed, limit, dry_run=dry_run, json=json)


def _run(
    study: Path, out_folder: Path | None, seed: int | None, limit: int | None, *, dry_run: bool, json: bool
) -> None:
    from layercut.study.checks import check_study_layers
    from layercut.study.file import load_study

    settings = load_study(study)
    try:
        check_study_layers(settings)
    except InputError as error:
        raise InputError(f"{study}: {error}") from error

    from layercut.cli.forecast import forecast_table
    from layercut.report.reports import study_reports
    from layercut.report.tables import comparison_tables
    from layercut.runs.study import STEPS
    from layercut.study.run import forecast_study, run_study
    from layercut.text.counting import counted

    if dry_run:
        forecasts = forecast_study(settings, out=out_folder, seed=seed, limit=limit)
        show([one.to_dict() for one in forecasts], [forecast_table(one) for one in forecasts], json=json)
        return
    outcomes = []
    for done in run_study(
        settings, out=out_folder, seed=seed, limit=limit, settings_file=str(study), console=log, say=say
    ):
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
