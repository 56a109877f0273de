"""``layercut run``: a dry run, a failure and its exit code, and the report in words and as JSON."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.studies import BREAK


@pytest.fixture
def study(tiny: Path, tmp_path) -> Path:
    data = {"model": str(tiny), "device": "cpu", "out": str(tmp_path / "runs" / "x"), "plans": ["reverse:1"]}
    data["tasks"] = ["tests.support.studies:letters", "tests.support.studies:steady"]
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_dry_run_counts_and_writes_nothing(layercut, study, tmp_path):
    ran = layercut.done("run", study, "--trust-study-code", "--dry-run", "--limit", 2)
    assert ran.out.startswith("run:") and "reverse-1, 0 of 2 cells done: 4 items" in ran.out
    assert "disk: up to" in ran.out and not (tmp_path / "runs").exists()
    seen = json.loads(layercut("run", study, "--trust-study-code", "--dry-run", "--json").out)
    steps = [(step["name"], step["items"]) for step in seen["steps"]]
    assert steps == [("uncut, 0 of 2 cells done", 12), ("reverse-1, 0 of 2 cells done", 12)]
    assert seen["checkpoints"] == 1 and seen["disk_bytes"] > 0


def test_a_failing_cell_stops_nothing_and_shows_in_the_exit_code(layercut, study, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.touch()
    monkeypatch.setenv(BREAK, str(broken))
    ran = layercut("run", study, "--trust-study-code")
    assert ran.code == 1
    assert "letters (rank) failed: RuntimeError" in ran.err
    assert "2 steps of the study" in ran.err
    assert "steady" in ran.out and "report:" in ran.out
    listed = layercut("ls", tmp_path / "runs", "--json").out
    assert {run["path"].rsplit("/", 1)[-1]: run["status"] for run in json.loads(listed)}["x"] == "unfinished"
    broken.unlink()
    ran = layercut.done("run", study, "--trust-study-code", "--json")
    recorded = json.loads(ran.out)
    assert recorded["failed"] == [] and {row["task"] for row in recorded["rows"]} == {"letters", "steady"}
    assert (tmp_path / "runs" / "x" / "reverse-1" / "checkpoint" / "config.json").is_file()
    layercut.done("report", tmp_path / "runs" / "x")


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ["evil:task"]},
        {"tasks": [{"task": "evil:task", "limit": 2}]},
        {"tasks": ["evil:task:3"]},
        {"tasks": ["evil:task"], "data_dir": "."},
        {"plans": ["evil:layers:1"]},
        {"plans": {"a": "evil:layers:1"}},
        {"criteria": ["evil:layers"], "depths": [1]},
        {"criteria": [{"criterion": "evil:layers", "name": "a"}], "depths": [1]},
        {"criteria": [{"criterion": "trace_damage", "objective": ["evil:task"]}], "depths": [1]},
        {"healing": [{"name": "a", "method": "seam", "prompts": "task:evil:task"}]},
        {"healing": [{"name": "a", "method": "seam", "prompts": "task:copy", "decontaminate": ["evil:task"]}]},
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_study_file_runs_no_code_unless_it_is_trusted(layercut, study, tmp_path, monkeypatch, change, dry):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ntask = layers = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    data = yaml.safe_load(study.read_text())
    study.write_text(yaml.safe_dump(data | {"tasks": ["copy"]} | change))
    ran = layercut("run", study, *(["--dry-run"] if dry else []), "--limit", 2)
    assert ran.code == 1 and "--trust-study-code" in ran.err
    assert sum(line.startswith("error:") for line in ran.err.splitlines()) == 1, ran.err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "runs").exists()
    layercut("run", study, "--trust-study-code", "--dry-run", "--limit", 2)
    assert dry is False or (tmp_path / "ran").exists() or "healing" in change or "criteria" in change


@pytest.mark.parametrize(
    "name", ["../x:y", "..x:y", ":x", "x:", "a b:c", "x:y:z", "\u202ea:b", "json:nothing", "json:__name__"]
)
@pytest.mark.parametrize("verb", ["select", "eval"])
def test_a_name_that_is_no_function_is_one_line(layercut, tiny, tmp_path, name, verb):
    flags = ["--criterion", name, "--remove", "1 layer"] if verb == "select" else ["--tasks", name]
    ran = layercut(verb, tiny, *flags, "--out", tmp_path / "out")
    assert ran.code in (1, 2) and "Traceback" not in ran.err and len(ran.err.splitlines()) <= 2


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("first", range(4))
def test_data_of_one_or_two_rows_works_or_is_one_line(layercut, tiny, tmp_path, first, rows):
    """Which half of the items a row falls into is decided by its hash, so that there may be nothing to report on."""
    lines = [json.dumps({"question": f"{i} and 1?", "answer": f"#### {i + 1}"}) for i in range(first, first + rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    ran = layercut("eval", tiny, "--tasks", "gsm8k", "--data", f"gsm8k={tmp_path / 'rows.jsonl'}", "--dry-run")
    assert ran.code == 0 or (ran.code == 1 and "gsm8k has no report" in ran.err and ran.err.count("\n") == 1)
