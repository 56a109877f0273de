"""Stopped anywhere and resumed = run through: the same plan from the same measurements, none of them made twice."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from layercut.engine.base import Decoding
from layercut.errors import RunMismatch
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Selection
from layercut.selection.objective import TaskObjective, search_settings
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import task_accuracy
from tests.support.fake_engine import Killed
from tests.support.search import NeedyEngine, NeedyTask

TASKS = (
    ObjectiveTask(task=NeedyTask(name="one", num_items=40), readout="short"),
    ObjectiveTask(task=NeedyTask(name="two", num_items=20), readout="rank"),
)


def search(path: Path, engine: NeedyEngine, num_remove: int = 2) -> Selection:
    """What one command does."""
    with RunFolder.begin(path, search_settings(TASKS, Decoding())) as folder, SearchJournal(folder) as journal:
        objective = TaskObjective(engine, TASKS, journal=journal)
        return task_accuracy(Context(num_layers=6, num_remove=num_remove, objective=objective))


def lines(path: Path) -> dict[str, Counter[str]]:
    """The lines of every file of a run's samples, in any order."""
    return {file.name: Counter(file.read_text().splitlines()) for file in (path / "samples").glob("*.jsonl")}


def test_killed_at_any_batch_and_resumed_is_as_run_through(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)  # the kill is an exception here, and there are many
    engine = NeedyEngine()
    whole = search(tmp_path / "whole", engine)
    assert whole.details["race"]["saved"] > 0, "so that a race is resumed"
    for moment in {*range(0, len(engine.batches), 3), len(engine.batches) - 1}:
        path = tmp_path / f"killed-{moment}"
        killed, resumed = NeedyEngine(kill_after=moment), NeedyEngine()
        with pytest.raises(Killed):
            search(path, killed)
        assert search(path, resumed) == whole
        assert lines(path) == lines(tmp_path / "whole")
        assert Counter(killed.asked + resumed.asked) == Counter(engine.asked)


def test_killed_again_and_again_it_gets_to_the_end(tmp_path):
    asked: list[tuple[str, str]] = []
    selection = None
    for _ in range(1000):
        engine = NeedyEngine(kill_after=3)
        with suppress(Killed):
            selection = search(tmp_path / "run", engine)
        asked += engine.asked
        if selection is not None:
            break
    assert selection == search(tmp_path / "whole", NeedyEngine())
    assert set(Counter(asked).values()) == {1}


def test_another_search_in_the_folder_measures_only_what_is_new(tmp_path):
    path, engine = tmp_path / "run", NeedyEngine()
    search(path, engine, num_remove=1)
    assert len({plan for plan, _ in engine.asked}) == 1 + 5
    search(path, engine, num_remove=3)
    assert len({plan for plan, _ in engine.asked}) == 1 + 5 + 4 + 3
    assert set(Counter(engine.asked).values()) == {1}
    before = len(engine.asked)
    assert search(path, engine) == search(tmp_path / "alone", NeedyEngine())
    assert len(engine.asked) == before


def test_another_objective_in_the_folder_is_refused_by_name(tmp_path):
    search(tmp_path / "run", NeedyEngine())
    longer = [ObjectiveTask(task=task.task, readout=task.readout, limit=50) for task in TASKS]
    for settings in (search_settings(longer, Decoding()), search_settings(TASKS, Decoding(temperature=0.9))):
        with pytest.raises(RunMismatch, match="was begun with"):
            RunFolder.begin(tmp_path / "run", settings)


def test_every_record_says_what_it_was_measured_under(tmp_path):
    selection = search(tmp_path / "run", NeedyEngine())
    records = RunFolder.open(tmp_path / "run").records("one", "short")
    keys = Counter(json.dumps(record["key"], sort_keys=True) for record in records)
    assert max(keys.values()) == 40 and len({(json.dumps(one["key"]), one["id"]) for one in records}) == len(records)
    assert sorted(selection.removed) in [json.loads(key)["removed"] for key in keys]
    named = {name for key in keys for name in json.loads(key)}
    assert named == {"model_hash", "removed", "version", "settings_hash", "decoding"}
