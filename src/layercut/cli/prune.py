"""``layercut prune``: from a model and a goal to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import log, say, show, show_estimate
from layercut.pruning.settings import PruneSettings
from layercut.settings import ModelSettings


@options.command(hidden="data data_dir seed unsafe_exec json")
def prune(
    model: Annotated[ModelSettings, options.Flags("Model")],
    goal: Annotated[PruneSettings, options.Flags(shown="use tasks keep max_depth heal time items")],
    out_folder: Annotated[Path | None, options.out_to("Folder to write to; runs/prune-<model> if left out.")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write the best plan's checkpoint even if none passed.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop before the search where the report items are too few for the goal.")
    ] = False,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Make MODEL shallower for a use, and write the checkpoint of the deepest plan that is shown to keep it.

    Measures the original model, removes one layer after the other by task scores, heals where that helps, and confirms
    the plans on items that were never used before, each at 95 %.

    Exits with 1 where no plan passed and no checkpoint was written.

    Example: layercut prune bundled:smollm2-135m --use math --keep 80%
    """
    from layercut.pruning.goal import check_prune, goal_tasks

    tasks = goal_tasks(goal, options.local_files(data), data_dir)
    check_prune(model, goal, tasks)
    from layercut.pruning.job import prune_model
    from layercut.report.first import result_tables
    from layercut.report.reports import prune_reports
    from layercut.tasks.run import slug

    folder = out_folder or Path("runs", slug(f"prune-{model.model}"))
    if dry_run:
        from layercut.pruning.estimate import prune_estimate

        show_estimate(prune_estimate(model, goal, tasks, out=folder, seed=seed), json=json)
        return
    done = prune_model(
        model, goal, goal=tasks, out=folder, seed=seed, anyway=anyway, strict=strict, console=log, say=say
    )
    prune_reports(done.folder, seed=seed)
    lines = [
        done.result.why,
        *([] if done.result.next is None else [f"next: {done.result.next.command}"]),
        f"checkpoint: {done.checkpoint or 'none, because no plan passed; --anyway writes the best one'}",
        f"page: {done.report}",
    ]
    show(done.result.to_dict(), result_tables(done.result), lines, json=json)
    if done.checkpoint is None:
        raise typer.Exit(1)
