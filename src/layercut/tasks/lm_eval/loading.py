"""Find tasks, groups and tags in lm-eval's task files and load them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.tasks.data_files import DataSet
from layercut.tasks.hub import hub_or_cache, why_not
from layercut.tasks.lm_eval.local_rows import reading
from layercut.tasks.lm_eval.names import files_of_task, own_folder, unknown_lm_eval_task
from layercut.tasks.lm_eval.subject import reason, unreadable

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager


def load(name: str, data: str | None, local: DataSet | None) -> dict[str, ConfigurableTask]:
    """lm-eval's task of this name, or those of a group or tag, each by its own name.

    Args:
        data: the place of the local rows, for messages.
        local: rows in place of the hub's.

    Raises:
        InputError: no such task, one that runs generated programs, or data that cannot be loaded or read.
    """
    manager = _manager_of(name)
    members = _members(manager, own_folder(name)[1])
    for one in members:
        _check_file(manager, one["task"], is_local=local is not None)
    changed = {} if local is None else {"class": reading(local, in_group=len(members) > 1)}
    _compile_templates_once()
    try:
        with hub_or_cache(), _nltk_data(name, _folders(manager, members)), _quiet():  # about settings of the task file
            # A group made on the spot is lm-eval's public way to load a task with changed settings.
            loaded = manager.load({"group": "layercut", "task": [{**one, **changed} for one in members]})
    except InputError:
        raise
    except (ImportError, AssertionError) as error:  # task files check by either what they need
        missing = getattr(error, "name", None)
        mend = f"pip install {missing}" if missing else "Install what it asks for."
        raise InputError(f"lm-eval's {name} cannot be set up here ({reason(error)}). {mend}") from error
    except Exception as error:  # task files run any code, and a failed download raises what it likes
        if local is not None:
            raise unreadable(name, str(data), error) from error
        raise InputError(
            f"{name}: its data set cannot be loaded ({why_not(error)}). With no network give a local copy: "
            f"`data` {name}=PATH."
        ) from error
    tasks: dict[str, ConfigurableTask] = loaded["tasks"]
    return tasks


def _check_file(manager: TaskManager, name: str, *, is_local: bool) -> None:
    """Refuse by its file, whose functions are not even imported: those of some files run programs to try it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(name)
    if entry is None or entry.yaml_path is None:
        return
    described = load_yaml(entry.yaml_path, resolve_func=False)
    if described.get("unsafe_code"):
        raise InputError(
            f"lm-eval's {name} runs generated programs without isolation; use layercut's own humaneval, "
            "humaneval_plus, mbpp or mbpp_plus, which run them in a sandbox."
        )
    if is_local and "class" in described:
        raise InputError(
            f"lm-eval's {name} is a Python class with its own way to read data, so it takes no local rows; leave "
            "`data` out."
        )


def _folders(manager: TaskManager, members: Sequence[Mapping[str, Any]]) -> set[Path]:
    """Folders of task files and their code."""
    entries = [manager.task_index.get(one["task"]) for one in members]
    return {Path(entry.yaml_path).parent for entry in entries if entry is not None and entry.yaml_path}


@contextmanager
def _nltk_data(name: str, folders: Iterable[Path]) -> Iterator[None]:
    """Inside the block task files get the data that they fetch with NLTK, or are refused.

    NLTK itself prints that it failed and goes on, and grading fails at the first answer that needs the data.
    """
    fetching = any(b"nltk.download(" in file.read_bytes() for folder in folders for file in folder.glob("*.py"))
    if not fetching or find_spec("nltk") is None:  # the task file names a missing package
        yield
        return
    import nltk

    before = nltk.download

    def download(resource: str, **_: Any) -> None:
        try:
            before(resource, quiet=True, raise_on_error=True)
        except Exception as error:  # no network, no space, no such resource
            raise InputError(
                f"lm-eval's {name} needs {resource} of NLTK, which cannot be downloaded here ({reason(error)}). Where "
                f"there is a network: python -m nltk.downloader {resource}; then copy ~/nltk_data here."
            ) from error

    nltk.download = download
    try:
        yield
    finally:
        nltk.download = before


def _members(manager: TaskManager, name: str) -> list[dict[str, Any]]:
    """The tasks of a group or tag, with what the group changes in each; a task is its own only member."""
    from lm_eval.tasks._yaml_loader import load_yaml  # the index names a group's file and does not open it

    if name in manager.all_tags:
        return [{"task": one} for one in sorted(manager.task_index[name].tags)]
    if name not in manager.all_groups:
        return [{"task": name}]
    members: list[dict[str, Any]] = []
    for child in load_yaml(manager.task_index[name].yaml_path, resolve_func=False)["task"]:
        if isinstance(child, str):
            members += _members(manager, child)
        elif isinstance(child.get("task"), str):
            members += [{**one, **child, "task": one["task"]} for one in _members(manager, child["task"])]
        else:
            raise InputError(f"lm-eval's group {name} makes groups of its own in its file; name its tasks one by one.")
    return members


@cache
def _compile_templates_once() -> None:
    """Keep lm-eval's templates: it compiles each again for every row and field, and reading costs little else."""
    from lm_eval.utils import env

    env.from_string = lru_cache(maxsize=1024)(env.from_string)


def _manager_of(name: str) -> TaskManager:
    """lm-eval's index of task files, with this task in it."""
    import lm_eval.tasks

    folder, bare = own_folder(name)
    if folder is not None:
        for with_defaults in (False, True):  # its files may name lm-eval's own
            manager = lm_eval.tasks.TaskManager(include_defaults=with_defaults, include_path=str(folder))
            if bare in manager.all_tasks and (with_defaults or bare in manager.all_subtasks):
                return manager
        raise unknown_lm_eval_task(name, manager.all_tasks)
    # Reading all of its 14,000 task files takes seconds, so the places where this one may be are tried first.
    home = Path(lm_eval.tasks.__file__).parent
    places = [*(file.parent for file in sorted(home.rglob(f"{name}.yaml"))), home / name / "default", home / name]
    if not any(place.is_dir() for place in places):
        places = [file.parent for file in files_of_task(name)]
    for place in places:
        if place.is_dir():
            manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=place)
            if name in manager.all_subtasks or name in manager.all_groups:
                return manager
    manager = _full_manager()
    if name in manager.all_tasks:
        return manager
    raise unknown_lm_eval_task(name, manager.all_tasks)


@cache
def _full_manager() -> TaskManager:
    import lm_eval.tasks

    return lm_eval.tasks.TaskManager()


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
