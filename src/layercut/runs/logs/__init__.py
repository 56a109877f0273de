"""Evaluations that other tools wrote, read as runs: lm-eval's samples, inspect_ai's logs, EvalPlus results."""

from __future__ import annotations

from pathlib import Path

from layercut.errors import InputError
from layercut.runs.environment import shown_path
from layercut.runs.logs import evalplus, inspect_ai, lm_eval
from layercut.runs.logs.logged import LoggedRun

READERS = (lm_eval, inspect_ai, evalplus)
"""Modules that each read the logs of one tool, by ``FILES`` (in words), ``holds_known_logs`` and ``read_log_file``."""


def open_foreign_log(path: Path) -> LoggedRun | None:
    """The evaluation that a file, or a folder of files, of another tool holds; None for a folder without any.

    Raises:
        InputError: a file of no kind that is known, or a damaged one.
    """
    path = Path(path)
    for reader in READERS:
        if reader.holds_known_logs(path):
            run: LoggedRun = reader.read_log_file(path)
            return run
    if path.is_file():
        kinds = "; ".join(reader.FILES for reader in READERS)
        raise InputError(
            f"{shown_path(path)} is no evaluation that is known. These are read: {kinds}; and run folders."
        )
    return None
