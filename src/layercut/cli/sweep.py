"""``layercut sweep``: how much each layer matters to each task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, out, result, say
from layercut.study.settings import DecodingSettings, ModelSettings, TaskSettings


@options.model_command()
def sweep(
    model: ModelSettings,
    decoding: DecodingSettings,
    objective: Annotated[str, typer.Option(help="Task names, separated by commas.", metavar="TASK,TASK")],
    readouts: Annotated[
        str | None,
        typer.Option(help="rank, gold, token, short, chain; each task's first if left out.", metavar="NAME,NAME"),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Only the first so many items of each task; shown in every table.")
    ] = 100,
    data: Annotated[
        list[str] | None, typer.Option(help="Local data of a task: gsm8k=PATH. May be repeated.", metavar="TASK=PATH")
    ] = None,
    data_dir: options.DataDir = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to skip, one at a time, ranges inclusive: 0-9,20. All if left out."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="selection items, or report items; layers are not to be chosen by the latter.")
    ] = "selection",
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="A plan.json whose scores per layer are compared. May be repeated.", metavar="PLAN.json"),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; runs/<model>-sweep if left out.", metavar="DIR")
    ] = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Skip each layer of MODEL alone and measure what every task keeps.

    Retention comes with paired intervals, a picture, and the rank correlation between tasks and with the criteria of
    --compare. Answers are kept item by item: the same command again goes on where it was stopped, and a search by task
    scores in the same folder is not asked again.

    Example: layercut sweep bundled:smollm2-135m --objective arithmetic,brackets --limit 64 --out runs/sweep
    """
    from layercut.cli.evaluate import with_local_data
    from layercut.report.html.page import PAGE
    from layercut.report.sweep_text import PLOT, REPORT, sweep_tables
    from layercut.study.sweep import sweep_model

    names = [name for name in objective.split(",") if name]
    wanted = tuple(readouts.split(",")) if readouts else None
    tasks = tuple(TaskSettings(task=name, readouts=wanted, limit=limit) for name in names)
    swept = sweep_model(
        model,
        objective=with_local_data(tasks, data, data_dir),
        layers=layers,
        split=split,
        compare=compare or (),
        out=out_folder,
        seed=seed,
        decoding=decoding,
        dry_run=dry_run,
        console=log,
        say=say,
    )
    if swept is None:
        return
    if json:
        as_json(swept.sweep.to_dict())
        return
    for block in sweep_tables(swept.sweep):
        out.print(block)
    result(f"report: {swept.folder / REPORT}")
    result(f"picture: {swept.folder / PLOT}")
    if (page := swept.folder / PAGE).is_file():
        result(f"page: {page}")
