"""``layercut diagnose``: what exactly broke in a pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show
from layercut.diagnostics import DIAGNOSTICS, is_plan, known
from layercut.settings import ModelSettings


@options.command()
def diagnose(
    model: Annotated[ModelSettings, options.SHOWN_OF_MODEL],
    cuts: Annotated[
        list[str],
        typer.Argument(
            help="Pruned models: layers (3,8,21-24), reverse:N or random:N, a plan.json, or another model: the folder "
            "of a cut or healed checkpoint, or a model that others made of MODEL.",
            metavar="CUT...",
        ),
    ],
    only: Annotated[
        str | None, typer.Option(help=f"Some of: {', '.join(DIAGNOSTICS)}. All if left out.", metavar="NAME,NAME")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Items of each kind of question; shown on the page.")] = 32,
    samples: Annotated[
        int, typer.Option(min=1, help="Answers drawn for each item, for pass@k with k = 1, 4, 16, 64 up to it.")
    ] = 64,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers of MODEL that the other model has; found by comparing weights if left out.", metavar="0-15"
        ),
    ] = None,
    out_folder: Annotated[Path | None, options.out_to("Run folder; runs/<model>-diagnose if left out.")] = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Find out what exactly broke in each CUT of MODEL, item by item beside the original model.

    One page, diagnose.md, says for each cut what broke first, with examples, and holds a section and a picture for each
    diagnostic. Answers are kept as they come: the same command goes on where it was stopped, and --only may add
    diagnostics later.

    Example: layercut diagnose bundled:smollm2-135m reverse:3 20-22 --limit 16 --out runs/diagnose
    """
    from layercut.study.checks import check_plans

    names = known([name for name in (only or "").split(",") if name])
    check_plans(model, [cut for cut in cuts if is_plan(cut)], seed)

    from layercut.diagnostics.diagnose import diagnose_model
    from layercut.report.diagnosis.page import summary_lines
    from layercut.report.reports import write_reports

    done = diagnose_model(
        model,
        cuts,
        only=names if only else (),
        limit=limit,
        num_samples=samples,
        layers=layers,
        out=out_folder,
        seed=seed,
        dry_run=dry_run,
        console=log,
        say=say,
    )
    if done is None:
        return
    page = write_reports(done.file.parent).get("page")
    lines = [*summary_lines(done.data), f"report: {done.report}", *([f"page: {page}"] if page else [])]
    show(done.data, lines=lines, json=json)
