"""Fields that several verbs have, and the tasks that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from layercut.base_settings import Names, Seed
from layercut.errors import InputError
from layercut.runs.trackers import TRACKERS
from layercut.settings import TaskSettings
from layercut.tasks.suites import asked_tasks, check_tasks, with_local_data
from layercut.verbs.base import Fields, Flag


def read_pairs(value: Any, form: str = "TASK=PATH, such as gsm8k=data/gsm8k") -> dict[str, Any]:
    """Values by name, of a mapping or of entries like ``form``. Raises InputError: an entry of another form."""
    if isinstance(value, Mapping):
        return {str(name): fspath(path) if isinstance(path, PathLike) else path for name, path in value.items()}
    pairs = {}
    for entry in [value] if isinstance(value, str) else value:
        name, equals, text = entry.partition("=")
        if not (equals and name and text):
            raise InputError(f"{entry!r:.60} is not {form}.")
        pairs[name] = text
    return pairs


def _tasks(value: Any) -> Any:
    """Names, and tasks with settings, of a text with commas or of a list."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return tuple(TaskSettings(**task) if isinstance(task, Mapping) else task for task in value)


ReportTo = Annotated[
    Names,
    Flag("NAME,NAME", hidden=True),
    Field((), description=f"Trackers that get every number: {', '.join(TRACKERS)}."),
]
TaskList = Annotated[tuple[str | TaskSettings, ...], BeforeValidator(_tasks)]
Data = Annotated[
    Annotated[Mapping[str, str], BeforeValidator(read_pairs)],
    Flag("TASK=PATH", repeated=True),
    Field({}, description="Local data of a task: gsm8k=PATH. May be repeated."),
]
DataDir = Annotated[
    Path | None,
    Flag("DIR"),
    Field(None, description="Folder with local data, in a folder for each task, such as gsm8k."),
]
"""Local data by folder."""
Out = Annotated[Path | None, Flag("DIR")]
REMOVE = (
    "Layers to remove, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N (N may be 25%), or "
    "the plan.json of a search."
)
OBJECTIVE = (
    "Tasks, separated by commas: names, NAME:5 with five worked examples, lm-eval:NAME for any of lm-eval, suite:quick "
    "(builtin, paper) for those of a suite."
)
PROMPTS = (
    ".txt (one a line), .jsonl, .json, .csv (also .gz) or .parquet; hub:NAME[:config[:split]]; task:NAME, for its "
    "selection items"
)
READOUTS = "rank, short, chain; each task's first if left out."
RandomSeed = Annotated[Seed, Flag("INTEGER"), Field(description="Random seed.")]
SHOWN_OF_MODEL = Fields("Model", shown="dtype device batch_size engine")
"""Fields of a model that most verbs show in ``--help``."""
SHOWN_OF_DECODING = Fields("Decoding", shown="temperature")


def read_named_tasks(verb: Any, listed: Sequence[str | TaskSettings], limit: int | None) -> tuple[TaskSettings, ...]:
    """Tasks with a verb's readouts, limit and local data; see ``suites.asked_tasks``.

    Raises:
        InputError: an unknown suite, task, readout or option, or local data that is not there or for another task.
    """
    names = [task for task in listed if isinstance(task, str)]
    whole = [task for task in listed if not isinstance(task, str)]
    text = ",".join(names)
    if names and not whole and not any(name.strip() for name in names):
        raise InputError(f"{text!r} names no task; write names separated by commas, such as arithmetic,gsm8k.")
    named = asked_tasks(text, limit=limit, readouts=verb.readouts)
    tasks = with_local_data((*named, *whole), dict(verb.data), verb.data_dir)
    check_tasks(tasks)
    return tasks
