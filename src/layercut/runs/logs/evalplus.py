"""EvalPlus results: ``*_eval_results.json``, with ``base`` and ``plus`` of each program.

Programs of one problem share a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from layercut.runs.environment import shown_path
from layercut.runs.json_text import check_fields
from layercut.runs.logs.logged import WRITTEN, LoggedRun, LoggedTask, json_object, outcome_of

FILES = "EvalPlus's *_eval_results.json"


class _Program(BaseModel, strict=True):
    base_status: str
    plus_status: str | None = None
    solution: Any = None


class _Results(BaseModel, strict=True):
    eval: dict[str, list[_Program]]


def holds_known_logs(path: Path) -> bool:
    """True if a path is such a file."""
    data = json_object(path)
    return isinstance(data.get("eval"), dict) and "samples" not in data


def read_log_file(path: Path) -> LoggedRun:
    """Every program of every problem. Raises InputError: results that lack the status of a program."""
    problems = check_fields(_Results, json_object(path), shown_path(path), "EvalPlus 0.2 or later is read.").eval
    name = "mbpp" if any(name.startswith("Mbpp") for name in problems) else "humaneval"
    task = LoggedTask(name=name, readout=WRITTEN, chance=0.0)
    for problem, programs in problems.items():
        for number, program in enumerate(programs, start=1):
            metrics = {"base": float(program.base_status == "pass")}
            if program.plus_status is not None:
                metrics = {"plus": float(metrics["base"] and program.plus_status == "pass"), **metrics}
            task.records.append(
                {
                    "id": problem if number == 1 else f"{problem}#{number}",
                    "cluster": problem,
                    "gold": problem,
                    "metrics": metrics,
                    "outcome": outcome_of(metrics),
                    "question": problem,
                    "answer": "",
                    "completion": str(program.solution or ""),
                }
            )
    return LoggedRun(path, "EvalPlus", "", [task])
