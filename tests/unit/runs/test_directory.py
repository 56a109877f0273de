"""The run folder: golden files, resuming, refusing, locking, listing."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from layercut.errors import InputError, RunMismatch
from layercut.runs.directory import RunFolder, find_runs
from layercut.runs.settings import settings_hash
from layercut.surgery.plan import CutPlan

SETTINGS = {
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "seed": 0,
    "limit": None,
    "tasks": ("arithmetic", "copy"),
    "decoding": {"temperature": 0.0, "top_p": 1e-05},
    "note": "1e5: ünï",
}
ROW = {
    "task": "copy",
    "version": 1,
    "readout": "short",
    "metric": "accuracy",
    "value": 0.5,
    "low": 0.09453120573423074,
    "high": 0.9054687942657693,
    "n": 2,
    "chance": 0.0,
    "method": "wilson",
    "seed": 0,
    "outcomes": {"right": 1, "wrong": 0, "no_answer": 1, "cut": 0},
    "finish": {"stop": 2, "length": 0},
    "limit": 2,
}
GOLDEN_CONFIG = """\
# Settings of this layercut run. A run goes on only with the same settings: leave this file as it is.
format_version: 1
settings_hash: f68b41b2c55a1d72
settings:
  model: HuggingFaceTB/SmolLM2-135M-Instruct
  seed: 0
  limit: null
  tasks:
  - arithmetic
  - copy
  decoding:
    temperature: 0.0
    top_p: 1.0e-05
  note: '1e5: ünï'
"""
GOLDEN_METRICS = """\
{
  "format_version": 1,
  "plan": {
    "format_version": 1,
    "num_layers": 4,
    "removed": [
      3,
      1
    ],
    "criterion": "explicit",
    "model": null,
    "model_hash": null,
    "settings": {},
    "scores": {},
    "kept": [
      0,
      2
    ]
  },
  "num_parameters": 12345,
  "rows": [
    {
      "task": "copy",
      "version": 1,
      "readout": "short",
      "metric": "accuracy",
      "value": 0.5,
      "low": 0.09453120573423074,
      "high": 0.9054687942657693,
      "n": 2,
      "chance": 0.0,
      "method": "wilson",
      "seed": 0,
      "outcomes": {
        "right": 1,
        "wrong": 0,
        "no_answer": 1,
        "cut": 0
      },
      "finish": {
        "stop": 2,
        "length": 0
      },
      "limit": 2
    }
  ]
}
"""


def test_files_on_disk_are_pinned(tmp_path):
    with RunFolder.begin(tmp_path / "a", SETTINGS, argv=["/usr/bin/layercut", "eval"]) as run:
        assert not run.is_finished
        with run.journal("copy", "short") as journal:
            journal.append([{"id": "x", "metrics": {"accuracy": 1.0}}])
        plan = CutPlan(num_layers=4, removed=(3, 1))
        run.write_metrics([ROW], plan=plan.to_dict(), num_parameters=12345)
        assert run.is_finished
    assert (tmp_path / "a/config.yaml").read_text() == GOLDEN_CONFIG
    assert (tmp_path / "a/metrics.json").read_text() == GOLDEN_METRICS
    assert (tmp_path / "a/samples/copy.short.jsonl").read_text() == '{"id": "x", "metrics": {"accuracy": 1.0}}\n'
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        ".lock",
        "config.yaml",
        "environment.json",
        "metrics.json",
        "samples",
    ]


def test_golden_files_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text(GOLDEN_CONFIG)
    (tmp_path / "metrics.json").write_text(GOLDEN_METRICS)
    run = RunFolder.open(tmp_path)
    assert run.settings == {**SETTINGS, "tasks": ["arithmetic", "copy"]}
    assert run.metrics()["rows"] == [ROW]
    assert CutPlan.from_dict(run.metrics()["plan"]).removed == (3, 1)


def test_the_same_settings_go_on(tmp_path):
    with RunFolder.begin(tmp_path / "a", SETTINGS, argv=["layercut"]) as run, run.journal("copy", "short") as journal:
        journal.append([{"id": "x"}])
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*.*") if path.is_file()}
    reordered = dict(reversed(SETTINGS.items()))
    with RunFolder.begin(tmp_path / "a", reordered, argv=["layercut", "again"]) as run:
        assert run.journal("copy", "short").records == [{"id": "x"}]
        assert run.environment["command"] == "layercut"
    assert {path: path.read_bytes() for path in before} == before


def test_going_on_under_another_version_is_noted_once(tmp_path, monkeypatch):
    RunFolder.begin(tmp_path, SETTINGS, argv=["layercut", "first"]).close()
    for _ in range(2):
        monkeypatch.setattr("layercut.__version__", "99.0")
        RunFolder.begin(tmp_path, SETTINGS, argv=["layercut", "second"]).close()
    monkeypatch.undo()
    RunFolder.begin(tmp_path, SETTINGS, argv=["layercut", "third"]).close()
    environment = RunFolder.open(tmp_path).environment
    assert environment["command"] == "layercut first"
    assert [(entry["command"], entry["layercut"]) for entry in environment["resumed"]] == [("layercut second", "99.0")]


@pytest.mark.parametrize(
    ("had", "now", "message"),
    [
        ({"seed": 0}, {"seed": 1}, "was begun with seed 0, this command says seed 1. Use --seed 0, or"),
        ({"batch_size": 8}, {"batch_size": 4}, "batch_size 8, this command says batch_size 4. Use --batch-size 8, or"),
        ({"limit": None}, {"limit": 5}, "with limit none, this command says limit 5. Leave out --limit, or"),
        ({"limit": 5}, {}, "with limit 5, this command has no limit. Use --limit 5, or"),
        ({}, {"limit": 5}, "begun without limit, this command says limit 5. Leave out --limit, or"),
        ({"chat": False}, {"chat": True}, "with chat off, this command says chat on. Use --no-chat, or"),
        ({"chat": True}, {"chat": 1}, "with chat on, this command says chat 1. Use --chat, or"),
        ({"tasks": ["a", "b"]}, {"tasks": ["a"]}, "with tasks a,b, this command says tasks a. Use --tasks a,b, or"),
        ({"engine": {"hash": "ab", "dtype": "x"}}, {"engine": {"hash": "cd", "dtype": "x"}}, "with engine.hash ab, "),
    ],
)
def test_other_settings_are_refused_with_the_way_back(tmp_path, had, now, message):
    folder = tmp_path / "l8-bi"
    RunFolder.begin(folder, had).close()
    with pytest.raises(RunMismatch) as error:
        RunFolder.begin(folder, now)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{folder} was begun with")
    assert str(error.value).endswith("or use another --out.")
    assert "\n" not in str(error.value)
    RunFolder.begin(folder, had).close()  # the refused one has let the lock go


def test_a_nested_setting_is_named_and_has_the_flag_that_was_given(tmp_path):
    def tasks(*limits: int | None) -> dict:
        names = [("copy", "short"), ("copy", "rank")]
        return {
            "tasks": [{"task": t, "readout": r, "limit": n} for (t, r), n in zip(names, limits, strict=False)],
            "removed": [],
        }

    RunFolder.begin(tmp_path, tasks(5, 5)).close()
    flags = {"limit": "--limit", "removed": "--remove"}
    for now, message in [
        (tasks(5, 8), "with tasks.copy/rank.limit 5, this command says tasks.copy/rank.limit 8. Use --limit 5, or use"),
        (tasks(5), "with tasks copy/short,copy/rank, this command says tasks copy/short. Use --tasks copy/short,copy"),
        ({**tasks(5, 5), "removed": [3]}, "removed (empty), this command says removed 3. Leave out --remove, or use"),
    ]:
        with pytest.raises(RunMismatch) as error:
            RunFolder.begin(tmp_path, now, flags=flags)
        assert message in str(error.value)


def test_settings_from_a_file_are_mended_in_the_file(tmp_path):
    RunFolder.begin(tmp_path, {"decoding": {"seed": 0}}).close()
    with pytest.raises(RunMismatch, match=r"study\.yaml says decoding\.seed 1\. Set decoding\.seed back to 0, or use"):
        RunFolder.begin(tmp_path, {"decoding": {"seed": 1}}, settings_file="study.yaml")
    with pytest.raises(RunMismatch, match=r"study\.yaml says limit 3\. Take limit out again, or use another"):
        RunFolder.begin(tmp_path, {"decoding": {"seed": 0}, "limit": 3}, settings_file="study.yaml")


def test_an_edited_config_is_refused(tmp_path):
    RunFolder.begin(tmp_path, {"seed": 0}).close()
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    for call in (lambda: RunFolder.begin(tmp_path, {"seed": 1}), lambda: RunFolder.open(tmp_path)):
        with pytest.raises(RunMismatch, match="was changed after the run was begun"):
            call()


def test_folders_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(InputError, match="photos is not empty and holds no layercut run"):
        RunFolder.begin(tmp_path / "photos", SETTINGS)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        RunFolder.begin(tmp_path / "file", SETTINGS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("lr: 1\n")
    for call in (lambda: RunFolder.begin(tmp_path / "other", SETTINGS), lambda: RunFolder.open(tmp_path / "other")):
        with pytest.raises(InputError, match=r"its config\.yaml is not from layercut"):
            call()
    with pytest.raises(InputError, match=r"no run can be written to .*file.a"):
        RunFolder.begin(tmp_path / "file" / "a", SETTINGS)


def test_a_begin_that_was_killed_early_can_begin_again(tmp_path):
    (tmp_path / ".lock").write_text("123\n")
    (tmp_path / ".config.yaml.k3j4").write_text("half")
    RunFolder.begin(tmp_path, SETTINGS).close()
    assert RunFolder.open(tmp_path).settings["seed"] == 0


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no config\.yaml"):
        RunFolder.open(tmp_path)
    RunFolder.begin(tmp_path, SETTINGS).close()
    run = RunFolder.open(tmp_path)
    with pytest.raises(InputError, match="is not finished; run the same command again"):
        run.metrics()
    with pytest.raises(InputError, match=r"copy\.short\.jsonl: no records"):
        run.records("copy", "short")


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 2, "rows": []}'])
def test_damaged_metrics_are_named(tmp_path, text):
    RunFolder.begin(tmp_path, SETTINGS).close()
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json"):
        RunFolder.open(tmp_path).metrics()


def test_an_unknown_format_is_refused(tmp_path):
    RunFolder.begin(tmp_path, SETTINGS).close()
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("format_version: 1", "format_version: 7"))
    with pytest.raises(InputError, match="format 7 is not known here; this layercut reads 1"):
        RunFolder.open(tmp_path)


def test_settings_hash_knows_names_and_values_but_no_order():
    assert settings_hash({"a": 1, "b": (1, 2)}) == settings_hash({"b": [1, 2], "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
    assert settings_hash({"a": 1}) != settings_hash({"a": "1"})


def test_two_writers_of_one_run_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom layercut.runs.directory import RunFolder\n"
        "run = RunFolder.begin(Path(sys.argv[1]), {'seed': 0})\nprint('begun', flush=True)\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": "src"}
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert writer.stdout.readline() == "begun\n"
        with pytest.raises(InputError, match=rf"a is being written by another layercut process \(pid {writer.pid}\)"):
            RunFolder.begin(tmp_path / "a", {"seed": 0})
        assert [run.status for run in find_runs(tmp_path)] == ["running"]
        RunFolder.open(tmp_path / "a")  # reading goes
    finally:
        writer.kill()
        writer.communicate()
    assert [run.status for run in find_runs(tmp_path)] == ["unfinished"]
    RunFolder.begin(tmp_path / "a", {"seed": 0}).close()


def test_looking_at_the_lock_does_not_stop_a_begin(tmp_path):
    import fcntl
    import threading

    RunFolder.begin(tmp_path, SETTINGS).close()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        begun = time.monotonic()
        RunFolder.begin(tmp_path, SETTINGS).close()
        assert time.monotonic() - begun > 0.05


def test_runs_are_listed_with_their_state_and_headline(tmp_path):
    uncut = {**ROW, "task": "arithmetic", "readout": "rank", "value": 0.66}
    with RunFolder.begin(tmp_path / "quick", {"seed": 0}) as study:
        with RunFolder.begin(tmp_path / "quick" / "uncut", {"seed": 0}) as run:
            flexible = {**ROW, "metric": "flexible", "value": 0.9}
            run.write_metrics([uncut, ROW, flexible], plan=CutPlan(num_layers=30).to_dict())
        with RunFolder.begin(tmp_path / "quick" / "cut", {"seed": 0}) as run:
            run.write_metrics([ROW], plan=CutPlan(num_layers=30, removed=(2, 1)).to_dict())
        assert find_runs(tmp_path / "quick")[0].status == "running"
    assert find_runs(tmp_path / "quick")[0].status == "unfinished"  # the report is missing
    (study.path / "report.md").touch()
    with RunFolder.begin(tmp_path / "slow", {"seed": 0}) as run, run.journal("copy", "short") as journal:
        journal.append([{"id": "x"}, {"id": "y"}])
        assert find_runs(tmp_path)[-1].status == "running"
    for other in ("empty", "slow/checkpoint", ".hidden"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "config.yaml").write_text("lr: 1\n")

    found = find_runs(tmp_path)
    assert [str(run.path.relative_to(tmp_path)) for run in found] == ["quick", "quick/cut", "quick/uncut", "slow"]
    assert [run.status for run in found] == ["finished", "finished", "finished", "unfinished"]
    assert [run.headline for run in found] == [
        "study of cut, uncut",
        "2 of 30 layers removed, copy short 50",
        "uncut, arithmetic rank 66, copy short 50",
        "2 answers so far",
    ]
    assert abs((datetime.now(UTC) - found[0].begun).total_seconds()) < 60
    assert find_runs(tmp_path / "slow") == [found[-1]]
    with pytest.raises(InputError, match="nowhere is not a folder"):
        find_runs(tmp_path / "nowhere")


def test_one_damaged_run_does_not_hide_the_others(tmp_path):
    for name in ("a", "b"):
        with RunFolder.begin(tmp_path / name, {"seed": 0}) as run:
            run.write_metrics([ROW])
    (tmp_path / "a" / "metrics.json").write_text("{")
    (tmp_path / "a" / "environment.json").unlink()
    damaged, whole = find_runs(tmp_path)
    assert damaged.begun is None
    assert "is damaged" in damaged.headline
    assert whole.headline == "copy short 50"


def test_metrics_with_nan_are_not_written(tmp_path):
    with RunFolder.begin(tmp_path, {"seed": 0}) as run:
        with pytest.raises(ValueError, match="Out of range float"):
            run.write_metrics([{**ROW, "value": float("nan")}])
        assert not run.is_finished


def test_task_names_stay_inside_the_folder(tmp_path):
    with RunFolder.begin(tmp_path / "a", {"seed": 0}) as run, run.journal("../my:task", "short") as journal:
        assert journal.path == tmp_path / "a" / "samples" / ".._my_task.short.jsonl"


def test_relative_paths_have_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunFolder.begin(Path(), {"seed": 0}) as run:
        assert run.name == tmp_path.name
    assert json.loads((tmp_path / "environment.json").read_text())["layercut"]


def test_the_walls_of_generated_programs_are_noted_and_a_change_of_them_too(tmp_path):
    RunFolder.begin(tmp_path, SETTINGS, sandbox="bubblewrap and limits").close()
    RunFolder.begin(tmp_path, SETTINGS, sandbox="bubblewrap and limits").close()
    RunFolder.begin(tmp_path, SETTINGS, sandbox="limits only, no isolation (--unsafe-exec)").close()
    environment = RunFolder.open(tmp_path).environment
    assert environment["sandbox"] == "bubblewrap and limits"
    assert [entry["sandbox"] for entry in environment["resumed"]] == ["limits only, no isolation (--unsafe-exec)"]
    with RunFolder.begin(tmp_path / "none", SETTINGS) as run:
        assert "sandbox" not in run.environment
