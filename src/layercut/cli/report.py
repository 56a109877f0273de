"""``layercut report``: make the reports of a finished run again, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli.console import result


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a study, prune, sweep, diagnosis, heal or eval.", metavar="RUN")
    ],
    more: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="A sweep or diagnosis of the same model, shown on the same page. May be repeated.",
            metavar="RUN",
        ),
    ] = None,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts/--no-texts",
            help="Show questions and answers. Without them a report can be shared where its data set cannot.",
        ),
    ] = True,
) -> None:
    """Write the reports of a run again from what its folder holds: report.html for a browser, and Markdown.

    The page is one file that needs no network. Needs no model and no torch. Of a healing, and of an eval without a
    comparison, there is Markdown alone; two evals are compared by layercut compare.

    Example: layercut report runs/quickstart --with runs/sweep --with runs/diagnose
    """
    from layercut.report.reports import write_reports

    for name, path in write_reports(folder, more=more or (), texts=texts).items():
        result(f"{name}: {path}")
