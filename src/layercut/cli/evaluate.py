"""``layercut eval``: score a model, whole or cut, on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, out, result, say
from layercut.errors import InputError
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings


@options.command(hidden="data allow_selection_items")
def evaluate(
    model: Annotated[ModelSettings, options.SHOWN_OF_MODEL],
    decoding: Annotated[DecodingSettings, options.SHOWN_OF_DECODING],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Task names, separated by commas; NAME:5 asks with five worked examples.", metavar="TASK,TASK"
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="In place of --tasks: builtin (offline), quick, or paper (the tasks of arXiv:2602.01997)."),
    ] = None,
    remove: options.Remove = None,
    out_folder: Annotated[str | None, options.out_to("Run folder; runs/<model>-<plan> if left out.")] = None,
    readouts: Annotated[
        str | None,
        typer.Option(
            help="rank, gold, token, short, chain; chain@64 (stopped after 64 tokens and made to answer; chain@0: at "
            "once), filler@64 (dots in place of the chain); those that a task reads out by itself if left out.",
            metavar="NAME,NAME",
        ),
    ] = None,
    limit: options.Limit = None,
    data: options.Data = None,
    data_dir: options.DataDir = None,
    max_new_tokens: Annotated[int | None, options.flag(TaskSettings, "max_new_tokens")] = None,
    samples: Annotated[int, options.flag(TaskSettings, "samples")] = 1,
    seed: options.Seed = 0,
    allow_selection_items: Annotated[
        bool,
        typer.Option("--allow-selection-items", help="Report also on items the plan was selected on, marked with *."),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Finished run of the original model on the same items: print what is kept.", metavar="RUN"),
    ] = None,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Score MODEL on tasks, whole or without the layers that --remove names.

    Every number comes with n, a 95 % interval and the score of guessing. The run folder keeps every answer; the same
    command again goes on where it was stopped.

    A suite is a list of tasks and readouts; with --data-dir it needs no hub.

    With --against, what is kept of the original model's scores is printed for every readout, with paired intervals,
    McNemar's test and the items on which two readouts disagree.

    Example: layercut eval bundled:smollm2-135m --tasks arithmetic,brackets --remove reverse:3 --limit 64
    """
    from layercut.study.checks import check_plans, check_tasks
    from layercut.tasks import takes

    if (tasks is None) == (suite is None):
        raise InputError("say what is to be measured: --tasks arithmetic,copy, or --suite builtin; one of the two.")
    asked = options.asked_tasks(f"suite:{suite}" if suite else tasks, readouts, limit, data, data_dir)
    # A suite holds tasks whose answers have a length of their own; a task that was named refuses.
    asked = tuple(
        task.replace(
            max_new_tokens=max_new_tokens if tasks or takes(task.task, "max_new_tokens") else None, samples=samples
        )
        for task in asked
    )
    check_tasks(asked)
    check_plans(model, [remove], seed)

    from layercut.engine.handle import ModelHandle
    from layercut.engine.served import ServedModel
    from layercut.evidence.two_runs import compare_two, notes, open_run, to_dict
    from layercut.report.readouts import discordances
    from layercut.report.tables import comparison_tables, metrics_table
    from layercut.report.two_runs_table import discordance_table
    from layercut.selection.specs import plan_of
    from layercut.tasks.run import evaluate_model, slug

    base = open_run(against) if against else None
    if base is not None:
        base.metrics()  # says now whether it is not finished
    handle = ServedModel(model) if model.engine == "openai" else ModelHandle(model)
    plan = plan_of(handle, remove, seed)
    named = slug(f"{model.model}-{remove or ('as-it-is' if plan.earlier else 'uncut')}")
    done = evaluate_model(
        handle,
        plan,
        tasks=asked,
        out=Path(out_folder) if out_folder else Path("runs", named),
        seed=seed,
        decoding=decoding,
        dry_run=dry_run,
        allow_selection_items=allow_selection_items,
        console=log,
        say=say,
    )
    if done is None:
        return
    runs = [] if base is None else [base, open_run(done.folder)]
    rows = compare_two(runs[0], runs[1], seed=seed) if runs else []
    if json:
        as_json({**done.metrics, "against": to_dict(rows, notes(*runs))} if runs else done.metrics)
        return
    out.print(metrics_table(done.metrics))
    for block in comparison_tables(rows):
        out.print(block)
    for line in notes(*runs) if runs else ():
        result(line)
    if apart := discordances(runs, rows):
        out.print("", discordance_table(apart))
    result(f"run folder: {done.folder}")
