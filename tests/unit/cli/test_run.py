"""``layercut run``: a dry run, a failure and its exit code, and the report in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.studies import BREAK
from tests.unit.cli.conftest import Run


@pytest.fixture
def study(tiny: Path, tmp_path: Path) -> Path:
    data = {
        "model": str(tiny),
        "device": "cpu",
        "out": str(tmp_path / "runs" / "x"),
        "plans": ["reverse:1"],
        "tasks": ["tests.support.studies:letters", "tests.support.studies:steady"],
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_dry_run_counts_and_writes_nothing(layercut: Run, study: Path, tmp_path: Path) -> None:
    ran = layercut("run", study, "--dry-run", "--limit", 2)
    assert ran.code == 0, ran.err
    assert "reverse-1" in ran.out and "no measurement of this model on this machine yet" in ran.words
    assert "disk: up to" in ran.out and not (tmp_path / "runs").exists()
    (seen,) = json.loads(layercut("run", study, "--dry-run", "--json").out)
    assert [(arm["name"], arm["cells"], arm["items"]) for arm in seen["arms"]] == [
        ("uncut", 2, 12),
        ("reverse-1", 2, 12),
    ]
    assert seen["arms"][0]["checkpoint_bytes"] == 0 < seen["arms"][1]["checkpoint_bytes"]


def test_a_failing_cell_stops_nothing_and_shows_in_the_exit_code(
    layercut: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    monkeypatch.setenv(BREAK, str(broken))
    ran = layercut("run", study)
    assert ran.code == 1
    assert "reverse-1: letters (rank) failed: RuntimeError: the grader fell over" in ran.err
    assert "2 steps of the study failed; the same command tries again what failed" in ran.err
    assert "steady" in ran.out and "report:" in ran.out
    listed = layercut("ls", tmp_path / "runs", "--json").out
    assert {run["path"].rsplit("/", 1)[-1]: run["status"] for run in json.loads(listed)}["x"] == "unfinished"
    broken.unlink()
    ran = layercut("run", study, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["failed"] == [] and {row["task"] for row in told["rows"]} == {"letters", "steady"}
    assert (tmp_path / "runs" / "x" / "reverse-1" / "checkpoint" / "config.json").is_file()
    assert layercut("report", tmp_path / "runs" / "x").code == 0
