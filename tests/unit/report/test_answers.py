"""Repetition and classes of programs in the reports of one run, two runs, a study and a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from layercut.cli.main import app
from layercut.report.reports import write_reports
from tests.support.answers import build_answers, record
from tests.support.patient import prose
from tests.support.sweeps import curve, sweep_of

ENDS = {"passed": "passed", "name": "NameError: x", "never_closed": "SyntaxError: x"}
ENDS |= {"wrong_answer": "AssertionError", "timeout": "timeout: x"}
LOOP = "It goes on" + " and on" * 60


def programs(kinds: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Twenty programs that end in these ways, one after the other."""
    found = []
    for place in range(20):
        kind = kinds[place % len(kinds)]
        about = {"answer": ENDS[kind], "program": kind, "metrics": {"pass": float(kind == "passed")}}
        found.append(record(f"program-{place}", "\n    return x", **about, **more))
    return found


def texts(every: int, **more: Any) -> list[dict[str, Any]]:
    """Twenty texts; the first of every few goes round and round until the limit."""
    return [
        record(f"text-{n}", prose(str(n)) if n % every else LOOP, "stop" if n % every else "length", **more)
        for n in range(20)
    ]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    build_answers(tmp_path / "uncut", {"own": texts(20), "humaneval_plus": programs(["passed"])})
    kinds = ["passed", "wrong_answer", "never_closed", "name"]
    build_answers(tmp_path / "last", {"own": texts(2), "humaneval_plus": programs(kinds)}, removed=(29,))
    return tmp_path


def test_a_study_groups_failures_by_class_and_shows_repetition_with_intervals(study: Path) -> None:
    written = write_reports(study)
    text = written["report"].read_text()
    assert "| model | n | loops | empty | no end | Rep-4 | Self-BLEU-4 | distinct-2 | words |" in text
    assert "| uncut | 20 | 5 [1, 24] | 0 [0, 16] | 5 [1, 24] |" in text
    assert "| last | 20 | 50 [30, 70]\\* | 0 [0, 16] | 50 [30, 70]\\* |" in text
    assert "| model | passed | wrong answer | bracket never closed | name |" in text
    assert "| last | 5 (25 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) | 5 (25 %; 33 %) |" in text
    assert "| last | 20 | 25 [11, 47]\\* | 75 [53, 89] |" + 4 * " 25 [11, 47] |" in text
    page = written["page"].read_text()
    for words in ("Do written answers repeat themselves?", "How do programs fail?", "All measures"):
        assert words in page
    before = {path: path.read_bytes() for path in written.values()}
    assert {path: path.read_bytes() for path in write_reports(study).values()} == before
    (study / "completions.json").unlink()
    assert {path: path.read_bytes() for path in write_reports(study).values()} == before, "the folder alone tells"


def test_two_runs_are_compared_by_their_answers_too(study: Path) -> None:
    command = ["compare", str(study / "uncut"), str(study / "last")]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "How do programs fail?\nhumaneval_plus (chain)." in shown.output
    data = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    cells = {cell["task"]: cell["diagnostics"] for cell in data["answers"]}
    assert cells["humaneval_plus"]["programs"]["data"]["classes"]["last"]["name"] == 5
    (row,) = (row for row in cells["own"]["degeneration"]["rows"] if row["measure"] == "loops")
    assert (row["n"], row["uncut"][0], row["cut"][0], row["test"]) == (20, 0.05, 0.5, "mcnemar")
    assert not (study / "completions.json").exists(), "a comparison writes nothing"


def test_a_sweep_shows_them_layer_by_layer(tmp_path: Path) -> None:
    kept = {3: 100, 7: 50}
    sweep = sweep_of(*(curve(task, "chain", kept, n=20) for task in ("own", "humaneval_plus")))
    tasks: dict[str, list[dict[str, Any]]] = {"own": [], "humaneval_plus": []}
    for removed, every, kinds in (([], 20, ["passed"]), ([3], 20, ["passed", "timeout"]), ([7], 2, ["never_closed"])):
        tasks["own"] += texts(every, key={"removed": removed})
        tasks["humaneval_plus"] += programs(kinds, key={"removed": removed})
    run = build_answers(tmp_path / "sweep", tasks)
    sweep.save(run.path)
    written = write_reports(run.path)
    text = written["report"].read_text()
    assert "| layer | n | loops |" in text and "| 7 | 20 | 50 [30, 70]\\* |" in text
    assert "| layer | passed | timeout | bracket never closed |" in text
    assert "| 3 | 10 (50 %) | 10 (50 %; 100 %) | 0 (0 %; 0 %) |" in text
    page = written["page"].read_text()
    assert "How do programs fail?" in page and "Do written answers repeat themselves?" in page
