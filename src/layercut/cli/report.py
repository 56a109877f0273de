"""``layercut report``: make the report of a finished study again, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli.console import result


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a study (layercut run).", metavar="RUN")],
) -> None:
    """Write report.md and its plot again from what the run folder holds. Needs no model and no torch."""
    from layercut.report.study import study_report

    result(f"report: {study_report(folder)}")
