"""``layercut compare``: two runs of the same items, paired."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import show


def compare(
    first: Annotated[Path, typer.Argument(help="A run: of a study's plan, or of an eval.", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same items.", metavar="RUN")],
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare two runs item by item: which of two cut, healed or whole models is better, and is that shown?

    The items and the decoding must be the same. Of two models on this disk, the layers that the second lost are named.
    Below the scores stand what the written answers look like (loops, repetition, no end) and how programs fail.

    Example: layercut compare runs/quickstart/reverse-3 runs/quickstart/random-3
    """
    from layercut.evidence.completions import as_plain, diagnose_runs
    from layercut.evidence.two_runs import compare_two, notes, open_run, to_dict
    from layercut.report.two_runs_table import answer_tables, two_runs_table

    runs = open_run(first), open_run(second)
    rows = compare_two(*runs, seed=seed)
    remarks = notes(*runs)
    answers = diagnose_runs(runs, seed=seed)
    tables = (*two_runs_table(rows, remarks), *answer_tables(answers))
    show({**to_dict(rows, remarks), "answers": as_plain(answers)}, tables, json=json)
