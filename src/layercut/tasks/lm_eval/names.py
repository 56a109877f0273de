"""Names of lm-eval's tasks, groups and tags, looked up in its task files without importing it."""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from layercut.errors import InputError
from layercut.runs.foreign_code import check_trust

_NAMED = re.compile(rb"^(?:task|group|tag):[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)


def has_lm_eval() -> bool:
    """True if lm-eval is installed."""
    try:
        return find_spec("lm_eval") is not None
    except ValueError:  # a module that was removed by hand
        return False


def unknown_lm_eval_task(name: str, names: list[str]) -> InputError:
    """The error for a name that lm-eval does not know, with the nearest ones."""
    near = difflib.get_close_matches(name, names, n=3)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"unknown lm-eval task {name!r}.{guess} `lm-eval ls tasks` lists them all.")


def own_task_folder(name: str) -> tuple[Path | None, str]:
    """The folder and the bare name of a task of one's own, ``my_tasks/sciq_de``; None for a task of lm-eval."""
    folder, slash, bare = name.rpartition("/")
    return (Path(folder or "/"), bare) if slash else (None, name)


def check_mentioned(name: str) -> None:
    """Refuse a name that no task file of lm-eval so much as mentions, in half a second where lm-eval takes several.

    The files are searched for the bare word: lm-eval has the last word on a name that is mentioned.

    Raises InputError: such a name, with the nearest ones, or no such folder.
    """
    folder, name = own_task_folder(name)
    if folder is not None:
        check_trust(f"the task {name} of {folder}")
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; an lm-eval task of your own is lm-eval:FOLDER/NAME.")
    files = _files() if folder is None else tuple(folder.rglob("*.yaml"))
    if any(name in (file.stem, file.parent.name) for file in files):
        return
    text = b"\n".join(file.read_bytes() for file in files)
    word = rb"(?<![\w-])" + re.escape(name.encode()) + rb"(?![\w-])"
    if (files or folder) and not re.search(word, text):
        raise unknown_lm_eval_task(name, sorted({known.decode() for known in _NAMED.findall(text)}))


def files_of_task(name: str) -> list[Path]:
    """The task files with a line ``task: NAME``; mostly one, which need not have the task's name."""
    quote = rb"[\"']?"
    line = re.compile(rb"^%btask%b:[ \t]*%b%b%b[ \t]*$" % (quote, quote, quote, re.escape(name.encode()), quote), re.M)
    return sorted(file for file in _files() if line.search(file.read_bytes()))


@cache
def _files() -> tuple[Path, ...]:
    spec = find_spec("lm_eval") if has_lm_eval() else None
    homes = (spec.submodule_search_locations or ()) if spec else ()
    walks = (walk for home in homes for walk in os.walk(Path(home, "tasks")))
    return tuple(Path(folder, file) for folder, _, files in walks for file in files if file.endswith(".yaml"))
