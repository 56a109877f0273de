"""``layercut sweep``: how much each layer matters to each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show
from layercut.diagnostics import LAYER_FORMS, known
from layercut.errors import InputError, unknown
from layercut.settings import DecodingSettings, ModelSettings
from layercut.tasks.base import Split

if TYPE_CHECKING:
    from layercut.diagnostics.diagnose import Diagnosed
    from layercut.selection.predict import Predicted


@options.command(hidden="data_dir")
def sweep(
    model: Annotated[ModelSettings, options.SHOWN_OF_MODEL],
    decoding: Annotated[DecodingSettings, options.Flags("Decoding")],
    objective: Annotated[str | None, typer.Option(help=options.OBJECTIVE, metavar="TASK,TASK")] = None,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose", help=f"In place of an objective: what breaks without each layer ({', '.join(LAYER_FORMS)})."
        ),
    ] = False,
    predict: Annotated[
        bool,
        typer.Option(
            "--predict",
            help="In place of asking every layer: which layers, and how many, generation can lose, from forward passes "
            "under the original model's own right answers.",
        ),
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="Some of the diagnostics of --diagnose.", metavar="NAME,NAME")
    ] = None,
    readouts: Annotated[
        str | None,
        typer.Option(help="rank, gold, token, short, chain; each task's first if left out.", metavar="NAME,NAME"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="At most this many items of each task or kind; shown in every table. 100 if left out, 16 for "
            "--diagnose.",
        ),
    ] = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to skip, one at a time, ranges inclusive: 0-9,20. All if left out.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="selection items, or report items; layers are not to be chosen by the latter.")
    ] = "selection",
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="A plan.json whose scores per layer are compared. May be repeated.", metavar="PLAN.json"),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            help="The model that MODEL was made of: layers are shown with its numbers, found by comparing weights.",
            metavar="MODEL",
        ),
    ] = None,
    out_folder: Annotated[Path | None, options.out_to("Run folder; runs/<model>-sweep if left out.")] = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Skip each layer of MODEL alone and measure what every task keeps.

    Retention comes with paired intervals, a picture, and the rank correlation between tasks and with the criteria of
    --compare. Answers are kept item by item: the same command again goes on where it was stopped, and a search by task
    scores in the same folder is not asked again.

    With --diagnose it reports what each layer is needed for: arithmetic, brackets and programs, texts without loops,
    the tokens of the original model's own right answers, the final hidden state. One page, layers.md, with a picture
    over the depth.

    With --predict no pruned model writes anything: the order of the layers, how many can go, and which kinds of tokens
    each is needed for, follow from what their absence does to the original model's right answers, beside the sweep of
    the same folder where there is one. See predict.md.

    Example: layercut sweep bundled:smollm2-135m --objective arithmetic,brackets --limit 64 --out runs/sweep
    """
    from layercut.study.checks import check_layers

    if diagnose == bool(objective):
        raise InputError("say what is asked: --objective arithmetic,copy, or --diagnose; one of the two.")
    if predict and (diagnose or layers or compare or parent or split != "selection"):
        raise InputError(
            "--predict reads all layers on selection items; leave out --diagnose, --layers, --split, --compare and "
            "--parent."
        )
    if only and not diagnose:
        raise InputError("--only has no effect without --diagnose; leave it out.")
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    names = known([name for name in (only or "").split(",") if name], LAYER_FORMS) if only else []
    tasks = options.asked_tasks(objective, readouts, limit or 100, data, data_dir, first_readouts=True)
    check_layers(model, layers)

    from layercut.diagnostics.diagnose import LIMIT
    from layercut.report.reports import write_reports
    from layercut.report.sweep_text import PLOT, REPORT, sweep_tables
    from layercut.runs.directory import PAGE
    from layercut.selection.sweep import sweep_model

    if diagnose:
        _diagnose(
            model,
            layers=layers,
            only=names,
            limit=limit or LIMIT,
            parent=parent,
            out=out_folder,
            seed=seed,
            dry_run=dry_run,
            json=json,
        )
        return
    if predict:
        _predict(model, objective=tasks, out=out_folder, seed=seed, decoding=decoding, dry_run=dry_run, json=json)
        return
    swept = sweep_model(
        model,
        objective=tasks,
        layers=layers,
        split=split,
        compare=compare or (),
        parent=parent,
        out=out_folder,
        seed=seed,
        decoding=decoding,
        dry_run=dry_run,
        console=log,
        say=say,
    )
    if swept is None:
        return
    write_reports(swept.folder)
    files = {"report": swept.folder / REPORT, "picture": swept.folder / PLOT, "page": swept.folder / PAGE}
    lines = [f"{name}: {file}" for name, file in files.items() if name != "page" or file.is_file()]
    show(swept.sweep.to_dict(), sweep_tables(swept.sweep), lines, json=json)


def _diagnose(model: ModelSettings, *, json: bool, **wanted: Any) -> None:
    from layercut.diagnostics.diagnose import diagnose_layers
    from layercut.evidence.diagnosis import with_rows
    from layercut.report.diagnosis.layers import PLOT, layers_report, layers_table

    done = diagnose_layers(model, console=log, say=say, **wanted)
    _show(done, layers_report, lambda data: layers_table(with_rows(data)), PLOT, json=json)


def _predict(model: ModelSettings, *, json: bool, **wanted: Any) -> None:
    from layercut.progress.bars import SelectionProgress
    from layercut.report.prediction import PLOT, prediction_report, prediction_tables
    from layercut.selection.predict import predict_layers

    with SelectionProgress(log) as progress:
        done = predict_layers(model, progress=progress, say=say, **wanted)
    _show(done, prediction_report, prediction_tables, PLOT, json=json)


def _show(
    done: Diagnosed | Predicted | None,
    report: Callable[[Path], Path],
    tables: Callable[[Any], Iterable[Any]],
    plot: str,
    *,
    json: bool,
) -> None:
    """Write the report, and print the results as tables and files or as JSON; nothing of a dry run."""
    if done is not None:
        page = report(done.file.parent)
        lines = (f"report: {page}", f"picture: {page.with_name(plot)}")
        show(done.data, tables(done.data), lines, json=json)
