from __future__ import annotations

import io
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.evidence.paired import compare_paired
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.search_journal import SearchJournal
from layercut.selection.select import folder_settings
from layercut.selection.sweep import PlannedSweep, swept_cells, swept_layers
from layercut.selection.task_criteria import task_accuracy
from layercut.settings import TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout
from layercut.tasks.cells import Cell
from tests.support.fake_engine import Killed
from tests.support.search import NeedyEngine, NeedyTask, is_right

GREEDY = Decoding()
HASH = "a" * 64


def needy(name: str, readout: Readout = "short", **fields: object) -> Cell:
    task = NeedyTask(name=name, num_items=20, **fields)  # type: ignore[arg-type]
    return Cell(task=task, readout=readout, limit=None, split="selection")


def sweep(path, asked, engine, layers=tuple(range(6)), say=lambda text: None):
    settings = folder_settings({"model": "fake"}, asked, GREEDY)
    with RunFolder.begin(path, settings) as run:
        model: Any = SimpleNamespace(num_layers=6, engine=engine, metadata=SimpleNamespace(model_hash=HASH))
        planned = PlannedSweep(folder=path, handle=model, layers=layers, cells=asked, decoding=GREEDY, isolation=None)
        return planned.measure_layers(run, Console(file=io.StringIO()), say)


def test_equals_what_the_items_say(tmp_path):
    asked = [needy("one"), needy("two", "rank"), needy("one", "rank")]
    rows = sweep(tmp_path / "run", asked, NeedyEngine(num_layers=6))
    assert [(row.task, row.readout, row.layer) for row in rows] == [
        (one.task.name, one.readout, layer) for one in asked for layer in range(6)
    ]
    for row, one in zip(rows, [one for one in asked for _ in range(6)], strict=True):
        right = [float(is_right(item, frozenset({row.layer}))) for item in [sample.id for sample in one.samples]]
        assert row.values == compare_paired([1.0] * 20, right, chance=0.0)
        assert row.values.retention is not None
        assert row.values.retention.value == sum(right) / 20
        assert row.values.lost == 20 - sum(right)
        assert row.outcomes.get("wrong", 0) == 20 - sum(right)


@pytest.mark.parametrize("kill_after", [0, 7, 33])
def test_a_killed_sweep_asks_only_what_is_missing(tmp_path, kill_after):
    asked = [needy("one"), needy("two", "rank")]
    whole = sweep(tmp_path / "whole", asked, NeedyEngine(num_layers=6))
    killed, second = NeedyEngine(num_layers=6, kill_after=kill_after), NeedyEngine(num_layers=6)
    with pytest.raises(Killed):
        sweep(tmp_path / "run", asked, killed)
    assert sweep(tmp_path / "run", asked, second) == whole
    assert len(killed.asked) == 4 * kill_after
    assert not set(killed.asked) & set(second.asked)
    assert len(killed.asked) + len(second.asked) == 7 * 2 * 20


def test_more_layers_later_and_no_model_for_what_is_known(tmp_path):
    asked = [needy("one")]
    sweep(tmp_path / "run", asked, NeedyEngine(num_layers=6), layers=(1, 2))
    engine = NeedyEngine(num_layers=6)
    sweep(tmp_path / "run", asked, engine, layers=(2, 4))
    assert {plan for plan, _ in engine.asked} == {CutPlan(num_layers=6, removed=(4,)).key}
    engine = NeedyEngine(num_layers=6, kill_after=0)
    assert [row.layer for row in sweep(tmp_path / "run", asked, engine, layers=(1, 4))] == [1, 4]
    assert not engine.calls


def test_a_search_in_the_same_folder_is_not_asked_again(tmp_path):
    asked = [needy("one"), needy("two")]
    parts = [ObjectiveTask(task=one.task, readout=one.readout, limit=None) for one in asked]
    settings = folder_settings({"model": "fake"}, parts, GREEDY)
    with RunFolder.begin(tmp_path / "run", settings) as run, SearchJournal(run) as journal:
        objective = TaskObjective(NeedyEngine(num_layers=6), parts, decoding=GREEDY, journal=journal, race="off")
        selection = task_accuracy(Context(num_layers=6, num_remove=2, objective=objective))
    engine = NeedyEngine(num_layers=6)
    rows = sweep(tmp_path / "run", asked, engine)
    assert Counter(plan for plan, _ in engine.asked) == {CutPlan(num_layers=6, removed=(0,)).key: 40}  # was protected
    first = selection.details["rounds"][0]
    for layer, value in zip(first["candidates"], first["values"], strict=True):
        assert value == pytest.approx(sum(row.values.cut.value for row in rows if row.layer == layer) / 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"share_known": 0.0}, "the uncut value is not above 0"),
        ({"share_known": 0.3, "chance_level": 0.25}, r"not above chance \(0.25\) on 20 items"),
    ],
)
def test_a_task_without_retention_is_said_at_once(tmp_path, fields, why):
    said: list[str] = []
    engine = NeedyEngine(num_layers=6, kill_after=5)  # the original model alone
    asked = [needy("dull", **fields)]
    with pytest.raises(Killed):
        sweep(tmp_path / "run", asked, engine, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("dull (short): ")
    rows = sweep(tmp_path / "run", asked, NeedyEngine(num_layers=6), layers=(1,))
    assert rows[0].kept_share is None
    assert re.search(why, said[0])
    assert re.search(why, rows[0].values.refused)


def test_layers_as_people_write_them():
    assert swept_layers(None, 4, "m") == (0, 1, 2, 3)
    assert swept_layers("3,0-1,1", 4, "m") == (0, 1, 3)
    with pytest.raises(InputError, match=r"layer 30 .*\(0-29\)"):
        swept_layers("28-30", 30, "m")
    with pytest.raises(InputError, match="not a layer list"):
        swept_layers("last", 30, "m")
    with pytest.raises(InputError, match="single decoder layer"):
        swept_layers(None, 1, "m")


def test_items_of_the_objective():
    wanted = [TaskSettings(task="brackets", readouts=("rank",), limit=5), TaskSettings(task="copy", limit=3)]
    selection = swept_cells(wanted, 0)
    assert (selection[0].label, len(selection[0].samples), selection[0].work().num_items) == ("brackets (rank)", 5, 5)
    assert {one.task.name for one in selection[1:]} == {"copy"}
    assert {cell.split for cell in selection} == {"selection"}
    with pytest.raises(InputError, match="copy more than once"):
        swept_cells([TaskSettings(task="copy"), TaskSettings(task="copy")], 0)
    with pytest.raises(InputError, match="at least one task"):
        swept_cells([], 0)
