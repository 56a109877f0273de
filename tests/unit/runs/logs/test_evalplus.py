"""EvalPlus results: both grades of each program, and several programs of one problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.two_runs import compare_two, open_run
from layercut.runs.logs import open_foreign_log


def write(file: Path, grades: dict[str, list[tuple[str, str | None]]]) -> Path:
    found: dict[str, Any] = {name: [] for name in grades}
    for name, programs in grades.items():
        for base, plus in programs:
            program = {"task_id": name, "solution": f"def f(): return {base!r}"}
            found[name].append(program | {"base_status": base, "plus_status": plus})
    file.write_text(json.dumps({"date": "2026-01-01", "hash": "1", "eval": found}))
    return file


def test_both_grades_are_metrics_and_plus_needs_base(tmp_path: Path) -> None:
    first = {f"HumanEval/{n}": [("pass", "pass" if n < 12 else "fail")] for n in range(16)}
    second = {f"HumanEval/{n}": [("fail", "pass")] for n in range(16)}
    runs = [open_run(write(tmp_path / f"{name}.json", grades)) for name, grades in (("a", first), ("b", second))]
    rows = {row.metric: row for row in compare_two(*runs)}
    assert list(rows) == ["plus", "base"] and rows["plus"].is_headline and rows["plus"].task == "humaneval"
    assert (rows["plus"].values.uncut.value, rows["plus"].values.cut.value) == (0.75, 0.0)
    assert (rows["base"].values.uncut.value, rows["base"].values.lost) == (1.0, 16)


def test_programs_of_a_problem_share_a_cluster(tmp_path: Path) -> None:
    grades = {f"Mbpp/{n}": [("pass", None), ("fail" if n % 2 else "pass", None)] for n in range(8)}
    runs = [open_run(write(tmp_path / f"{name}.json", grades)) for name in ("a", "b")]
    (row,) = compare_two(*runs)
    assert (row.task, row.metric, row.n, row.values.num_clusters) == ("mbpp", "base", 16, 8)


def test_a_program_without_a_grade_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"eval": {"HumanEval/0": [{"solution": ""}]}}))
    with pytest.raises(InputError, match=r"a\.json: eval\.HumanEval/0\.0\.base_status is missing"):
        open_foreign_log(file)
