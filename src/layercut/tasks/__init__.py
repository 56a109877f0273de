"""Tasks by name, imported on first use. A new one is a file here and a row in ``layercut.known_tasks``."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError, unknown_name
from layercut.known_tasks import BY_LM_EVAL
from layercut.known_tasks import TASKS as TASKS
from layercut.runs.foreign_code import check_function_name, check_trust, function_named
from layercut.seed import check_seed
from layercut.tasks.lm_eval import has_lm_eval, own_task_folder

if TYPE_CHECKING:
    from layercut.tasks.base import Task

LM_EVAL = "lm-eval:"  # prefix of the name of a task of the LM Evaluation Harness; ``lm_eval:`` does as well
OF_LM_EVAL = ("rank", "chain")  # readouts that a task of lm-eval may have

_PREFIXES = (LM_EVAL, LM_EVAL.replace("-", "_"))
_LONGEST_NAME = 200
_NAME = re.compile(r"(?P<base>.+?)(:(?P<shots>\d+))?(?P<chat>\+chat)?")
_OWN_FILE = re.compile(r"(?P<path>.+\.(?:jsonl|json|csv|parquet)(?:\.gz)?)(?::(?P<grade>[a-z_]+))?")


def load_task(name: str, *, data: str | None = None, seed: int = 0, max_new_tokens: int | None = None) -> Task:
    """A task by name.

    Args:
        name: one of ``TASKS``; a file of your own (``my.jsonl``, ``my.csv:number``); a task or group of the LM
            Evaluation Harness (``lm-eval:NAME`` where one of ours has the same name, ``lm-eval:FOLDER/NAME`` with its
            file in a folder of your own); or ``my.module:function``. ``NAME:5`` asks with five worked examples,
            ``NAME:5+chat`` in the model's chat format, for tasks of lm-eval.
        data: a local file or folder in place of the data set on the hub, for tasks that have one.
        seed: of the generator, for tasks whose problems are made; others have no use for it.
        max_new_tokens: longest answer, for tasks where it can be chosen.

    Raises:
        InputError: no such task, an option it does not have, or data that cannot be used.
        MissingExtra: the task needs an optional part that is not installed.
    """
    check_seed(seed)
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InputError(f"{name}: max_new_tokens {max_new_tokens} is too small; use 1 or more.")
    factory, options = _factory(name)
    _, num_shots, chat = _parts(name)
    parameters = inspect.signature(factory).parameters
    wanted = {"data": data, "max_new_tokens": max_new_tokens, "num_shots": num_shots, "chat": chat or None}
    for option, value in wanted.items():
        if value is not None and option not in parameters:
            raise InputError(f"the task {name} takes no {option}, but {option} {value!r} was given; leave it out.")
    options |= {option: value for option, value in wanted.items() if value is not None}
    if "seed" in parameters:
        options["seed"] = seed
    from layercut.tasks.base import Task  # imported here, because lists of names need no engine

    task = factory(**options)
    if not isinstance(task, Task):
        raise InputError(f"the task {name} gives a {type(task).__name__}; it must be a layercut.tasks.base.Task.")
    return task


def check_task(
    name: str, readouts: Sequence[str] | None = None, *, data: str | None = None, max_new_tokens: int | None = None
) -> None:
    """Refuse, before torch or lm-eval is imported, what ``load_task`` and ``Task.check_readout`` would refuse later.

    A task of one's own is not imported for it, and lm-eval has the last word on its own. Raises InputError.
    """
    base, num_shots, _ = _parts(name)
    own = _own_file(base) is not None
    if _is_function(base):
        return
    if own or (_is_ours(base) and not (num_shots is not None and TASKS[base].worked)):
        task = load_task(name, data=data, max_new_tokens=max_new_tokens)
        if own:
            task.samples("report", None)  # refuses a bad row before a model is loaded
        for readout in readouts or ():
            task.check_readout(readout)
        return
    if base not in TASKS:
        _factory(name)  # refuses one of ours that is misspelt
        folder, bare = own_task_folder(base_name_of_task(name))
        if folder is not None:
            check_trust(f"the task {bare} of {folder}")
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; an lm-eval task of your own is lm-eval:FOLDER/NAME.")
    from layercut.tasks.base import check_known

    for readout in readouts or ():
        check_known(name, readout, OF_LM_EVAL)


def takes_option(name: str, option: str) -> bool:
    """True if a task has an option, such as ``max_new_tokens``. Raises InputError: no such task."""
    return option in inspect.signature(_factory(name)[0]).parameters


def check_task_name(name: str) -> None:
    """Raise InputError for ``my.module:function`` from a source that is not trusted; nothing is imported."""
    base = _parts(name)[0]
    if _is_function(base):
        check_function_name(base, "task")


def base_name_of_task(name: str) -> str:
    """A task's name without ``lm-eval:``, the number of examples and ``+chat``: ``sciq`` of ``lm-eval:sciq:5``."""
    base = _parts(name)[0]
    return base.partition(":")[2] if base.startswith(_PREFIXES) else base


def _factory(name: str) -> tuple[Any, dict[str, Any]]:
    """The factory of a task, and the options that its name gives."""
    base, num_shots, _ = _parts(name)
    if (own := _own_file(base)) is not None:
        from layercut.tasks.own_file import own_file_task

        return own_file_task, own.groupdict()
    if len(name) > _LONGEST_NAME:
        raise InputError(f"no task has a name of {len(name)} letters ({name[:40]!r}...); separate names by commas.")
    worked = TASKS[base].worked if num_shots is not None and base in TASKS else ""
    if _is_ours(base) and not worked:
        module, _, function = TASKS[base].factory.partition(":")
        return getattr(import_module(f"layercut.tasks.{module}"), function), {}
    if _is_function(base):
        return function_named(base, "task"), {}
    # A bare name that is none of ours is looked for in lm-eval, but for one of ours misspelt.
    misspelt = difflib.get_close_matches(base, TASKS, n=1, cutoff=0.75)
    if not (base in TASKS or base.startswith(_PREFIXES)) and (misspelt or not has_lm_eval()):
        hint = f"Or {LM_EVAL}NAME for a task of lm-eval, my.jsonl or module:function for your own."
        raise unknown_name("task", name, TASKS, hint)
    from layercut.tasks.lm_eval.loading import lm_eval_task

    if worked:
        return lm_eval_task, {"name": worked, "shown_name": base}
    bare = own_task_folder(base_name_of_task(name))[1]
    return lm_eval_task, {"name": base_name_of_task(name), "shown_name": f"{LM_EVAL}{bare}" if _is_ours(bare) else bare}


def _is_ours(base: str) -> bool:
    """True if layercut asks and grades a task of this name itself."""
    return base in TASKS and TASKS[base].factory != BY_LM_EVAL


def _is_function(base: str) -> bool:
    """True of ``my.module:function``."""
    return ":" in base and not base.startswith(_PREFIXES) and _own_file(base) is None


def _own_file(name: str) -> re.Match[str] | None:
    """The path and grade of a file of one's own; None for other names, as ``my.json:load`` where no such file is."""
    match = _OWN_FILE.fullmatch(name)
    if match is None or match["grade"] is None:
        return match
    path = match["path"]
    return match if "/" in path or ".jsonl" in path or Path(path).is_file() else None


def _parts(name: str) -> tuple[str, int | None, bool]:
    """A name without what follows it, the number of examples, and whether the chat format is asked for."""
    match = _NAME.fullmatch(name)
    if match is None:  # empty, or of several lines
        return name, None, False
    return match["base"], None if match["shots"] is None else int(match["shots"]), match["chat"] is not None
