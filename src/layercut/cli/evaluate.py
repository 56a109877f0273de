"""``layercut eval``: score a model, whole or cut, on tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from layercut.cli import options
from layercut.cli.console import as_json, log, out, result, say
from layercut.errors import InputError
from layercut.study.settings import DecodingSettings, ModelSettings, TaskSettings


@options.model_command()
def evaluate(
    model: ModelSettings,
    decoding: DecodingSettings,
    tasks: Annotated[str, typer.Option(help="Task names, separated by commas.", metavar="TASK,TASK")],
    remove: options.Remove = None,
    out_folder: Annotated[
        str | None, typer.Option("--out", help="Run folder; runs/<model>-<plan> if left out.", metavar="DIR")
    ] = None,
    readouts: Annotated[
        str | None, typer.Option(help="rank, short, chain; all that a task has if left out.", metavar="NAME,NAME")
    ] = None,
    limit: options.Limit = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Local data of a task: gsm8k=PATH. May be repeated.", metavar="TASK=PATH")
    ] = None,
    seed: options.Seed = 0,
    allow_selection_items: Annotated[
        bool,
        typer.Option("--allow-selection-items", help="Report also on items the plan was selected on, marked with *."),
    ] = False,
    dry_run: options.DryRun = False,
    unsafe_exec: options.UnsafeExec = False,
    json: options.Json = False,
) -> None:
    """Score MODEL on tasks, whole or without the layers that --remove names.

    Every number comes with n, a 95 % interval and the score of guessing. The run folder keeps every answer; the same
    command again goes on where it was stopped.

    Example: layercut eval bundled:smollm2-135m --tasks arithmetic,brackets --remove reverse:3 --limit 64
    """
    from pathlib import Path

    from layercut.report.tables import metrics_table
    from layercut.study.evaluate import evaluate_model
    from layercut.tasks.sandbox import allow_unsafe

    if unsafe_exec:
        allow_unsafe()
    names = [name for name in tasks.split(",") if name]
    files = data_files(data, names)
    wanted = tuple(readouts.split(",")) if readouts else None
    done = evaluate_model(
        model,
        tasks=tuple(TaskSettings(task=name, readouts=wanted, limit=limit, data=files.get(name)) for name in names),
        remove=remove,
        out=Path(out_folder) if out_folder else None,
        seed=seed,
        decoding=decoding,
        dry_run=dry_run,
        allow_selection_items=allow_selection_items,
        console=log,
        say=say,
    )
    if done is None:
        return
    if json:
        as_json(done.metrics)
        return
    out.print(metrics_table(done.metrics))
    result(f"run folder: {done.folder}")


def data_files(entries: list[str] | None, tasks: list[str]) -> dict[str, str]:
    """Local data by task, from ``--data TASK=PATH``.

    Raises:
        InputError: an entry of another form, or for a task that is not asked for.
    """
    files = dict(_pair(entry) for entry in entries or [])
    for name in files:
        if name not in tasks:
            raise InputError(f"--data names {name}, which is not among the tasks {', '.join(tasks) or '(none)'}.")
    return files


def _pair(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not equals or not name or not path:
        raise InputError(f"--data {entry!r} is not TASK=PATH, such as gsm8k=data/gsm8k.")
    return name, path
