"""``layercut report``: make the report of a finished study again, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli.console import result


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a study, a sweep or a diagnosis.", metavar="RUN")],
) -> None:
    """Write report.md and its plot again from what the run folder holds. Needs no model and no torch."""
    from layercut.report.diagnosis.layers import LAYERS_FILE, layers_report
    from layercut.report.diagnosis.page import diagnosis_report
    from layercut.report.diagnosis.verdict import FILE
    from layercut.report.prediction import PREDICTION, prediction_report
    from layercut.report.study import study_report
    from layercut.report.sweep import is_sweep
    from layercut.report.sweep_text import sweep_report

    if (folder / FILE).is_file():
        result(f"report: {diagnosis_report(folder)}")
        return
    if (folder / LAYERS_FILE).is_file():
        result(f"report: {layers_report(folder)}")
        return
    if (folder / PREDICTION).is_file():
        result(f"prediction: {prediction_report(folder)}")
        if not is_sweep(folder):
            return
    result(f"report: {sweep_report(folder) if is_sweep(folder) else study_report(folder)}")
