"""``layercut select``: choose which layers go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show, show_estimate
from layercut.errors import InputError
from layercut.models.depth import depth_of
from layercut.selection import CRITERIA, criterion_row
from layercut.selection.base import SearchSettings
from layercut.settings import CalibrationSettings, DecodingSettings, Depth, ModelSettings


def _those(fact: str) -> str:
    """The criteria of which a fact is true."""
    names = [name for name, row in CRITERIA.items() if getattr(row, fact)]
    return f"{', '.join(names[:-1])} and {names[-1]}"


_TEXT = {"source": "calibration", "num_texts": "calibration_texts", "max_tokens": "calibration_tokens"}


@options.command()
def select(
    model: Annotated[ModelSettings, options.SHOWN_OF_MODEL],
    decoding: Annotated[DecodingSettings, options.Flags("Decoding")],
    search: Annotated[SearchSettings, options.Flags(shown="race")],
    text: Annotated[CalibrationSettings, options.Flags(shown="source", names=_TEXT)],
    criterion: Annotated[
        str, typer.Option(help=f"How layers are ranked: {', '.join(CRITERIA)}; or your own my.module:function.")
    ],
    remove: Annotated[
        str, typer.Option(help="How many layers are removed, or which share: 3 or 25%.", metavar="N")
    ] = "25%",
    keep: options.Keep = None,
    out_folder: Annotated[Path | None, options.out_to("Run folder; runs/select-<model> if left out.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"{options.OBJECTIVE} Their selection items judge a plan, for {_those('needs_objective')}.",
            metavar="TASK,TASK",
        ),
    ] = None,
    readouts: Annotated[
        str | None, typer.Option(help="How the objective's tasks are read out; each task's first if left out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Selection items of each task; 100 if left out.")] = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Items of each task that the search never sees and the chosen plan is then scored on; as many as "
            "--limit if left out, 0 for none.",
            metavar="N",
        ),
    ] = None,
    protect: Annotated[
        str | None,
        typer.Option(
            help="Layers that must stay: first:4,last:2,0,7-9, or none. If left out, layer 0 for "
            f"{_those('protects_first_layer')}.",
            metavar="LAYERS",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the criterion, or any option that --help-all lists. May be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Choose the layers of MODEL that go, and write plan.json, which cut, eval and run take.

    All that is measured is kept in the run folder: a search that was killed goes on, and another criterion or a deeper
    cut on the same objective uses it again. The scores of the chosen plan on the items that it was chosen on are too
    good by construction, so its scores on held-out items stand beside them.

    Example: layercut select bundled:smollm2-135m --criterion task_accuracy --objective arithmetic,copy --remove 2
    """
    from layercut.study.checks import check_selection

    criterion_row(criterion)
    depth = Depth(text=remove)
    tasks = options.asked_tasks(objective, readouts, limit, data, data_dir, first_readouts=True)
    if (limit or readouts or held_out) and not tasks:
        raise InputError(
            "--limit, --readouts and --held-out have no effect without --objective; name its tasks, or leave them out."
        )
    num_layers = depth_of(model.model, model.revision)
    if num_layers is None:
        raise InputError(f"the config of {model.model} does not say how many decoder layers it has.")
    number = depth.layers(num_layers)
    check_selection(model, criterion, number, protect=protect, has_tasks=bool(tasks))

    from layercut.progress.bars import SelectionProgress
    from layercut.report.selection import held_out_table, ranking_table
    from layercut.selection.estimate import selection_estimate
    from layercut.selection.select import objective_parts, select_layers
    from layercut.selection.select import setting as parse_setting
    from layercut.tasks.run import slug

    folder = out_folder or Path("runs", slug(f"select-{model.model}"))
    own = dict(parse_setting(entry) for entry in setting or [])
    if dry_run:
        estimate = selection_estimate(
            model,
            criterion=criterion,
            num_remove=number,
            parts=[part for task in tasks for part in objective_parts(task, seed)],
            calibration=text,
            protect=protect,
            settings=own,
            race=search.race,
            num_held_out=held_out,
            out=folder,
        )
        show_estimate(estimate, json=json)
        return
    with SelectionProgress(log) as progress:
        done = select_layers(
            model,
            criterion=criterion,
            num_remove=number,
            out=folder,
            tasks=tasks,
            calibration=text,
            protect=protect,
            settings=own,
            **search.as_dict(),
            decoding=decoding,
            num_held_out=held_out,
            keep=keep,
            seed=seed,
            progress=progress,
            say=say,
        )
    chosen, held = done.plan.to_dict(), held_out_table(done.plan.scores)
    tables = [ranking_table(chosen), *([] if held is None else [held])]
    show(chosen, tables, [f"{criterion}: {done.plan.describe()}", f"plan: {done.path}"], json=json)
