"""EvalPlus results: ``*_eval_results.json``, with ``base`` and ``plus`` of each program.

Programs of one problem share a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.json_text import load
from layercut.runs.logs.logged import WRITTEN, LoggedRun, LoggedTask, outcome_of
from layercut.runs.settings import shown

FILES = "EvalPlus's *_eval_results.json"


def are_here(path: Path) -> bool:
    """True if a path is such a file."""
    if not (path.is_file() and path.suffix == ".json"):
        return False
    try:
        data = load(path)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and isinstance(data.get("eval"), dict) and "samples" not in data


def read(path: Path) -> LoggedRun:
    """Every program of every problem.

    Raises:
        InputError: results that lack the status of a program.
    """
    problems = load(path)["eval"]
    try:
        records = [record for name in problems for record in _records(name, problems[name])]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{shown(path)}: a program lacks {error}; EvalPlus 0.2 or later is read.") from error
    task = LoggedTask(
        name="mbpp" if any(name.startswith("Mbpp") for name in problems) else "humaneval",
        readout=WRITTEN,
        records=records,
        chance=0.0,
    )
    return LoggedRun(path, "EvalPlus", "", [task])


def _records(problem: str, programs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(programs, start=1):
        metrics = {"base": float(one["base_status"] == "pass")}
        if one.get("plus_status") is not None:
            metrics = {"plus": float(metrics["base"] and one["plus_status"] == "pass"), **metrics}
        yield {
            "id": problem if number == 1 else f"{problem}#{number}",
            "cluster": problem,
            "gold": problem,
            "metrics": metrics,
            "outcome": outcome_of(next(iter(metrics.values()))),
            "question": problem,
            "answer": "",
            "completion": str(one.get("solution") or ""),
        }
