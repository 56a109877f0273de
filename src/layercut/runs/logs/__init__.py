"""Evaluations that other tools wrote, read as runs: lm-eval's samples, inspect_ai's logs, EvalPlus results."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from layercut.errors import InputError
from layercut.runs.logs import evalplus, inspect_ai, lm_eval
from layercut.runs.logs.logged import LoggedRun
from layercut.runs.settings import shown


class LogReader(Protocol):
    """A module that reads the logs of one tool."""

    FILES: str
    """Files that it reads, in words."""

    def are_here(self, path: Path) -> bool:
        """True if a path is such a log."""
        ...

    def read(self, path: Path) -> LoggedRun:
        """The evaluation. Raises InputError: it is damaged."""
        ...


READERS: tuple[LogReader, ...] = (lm_eval, inspect_ai, evalplus)


def open_log(path: Path) -> LoggedRun | None:
    """The evaluation that a file, or a folder of files, of another tool holds; None for a folder without any.

    Raises:
        InputError: a file of no kind that is known, or a damaged one.
    """
    path = Path(path)
    for reader in READERS:
        if reader.are_here(path):
            return reader.read(path)
    if path.is_file():
        kinds = "; ".join(reader.FILES for reader in READERS)
        raise InputError(f"{shown(path)} is no evaluation that is known. These are read: {kinds}; and run folders.")
    return None
