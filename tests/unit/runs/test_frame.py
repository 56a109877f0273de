"""Results are data frames: a line for each score, a column for each number."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.pruning.job import Pruned
from layercut.runs.prune import PruneResult
from layercut.runs.records import data_frame
from layercut.settings import ModelSettings
from layercut.study.job import StudyOutcome
from layercut.tasks.cells import Evaluated
from tests.support.pages import write_prune

pytest.importorskip("pandas")


def test_a_field_within_a_field_is_a_column_of_its_own() -> None:
    found = data_frame([{"task": "copy", "kept": {"value": 0.9, "low": 0.8}}, {"task": "sums", "kept": {"value": 0.5}}])
    assert list(found.columns) == ["task", "kept.value", "kept.low"]
    assert found["kept.value"].tolist() == [0.9, 0.5] and found["kept.low"].isna().tolist() == [False, True]


def test_without_pandas_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        data_frame([])


def test_an_evaluation_has_a_line_for_each_metric() -> None:
    rows = [{"task": "copy", "value": 0.5, "outcomes": {"right": 1}}, {"task": "sums", "value": 0.25, "outcomes": {}}]
    found = Evaluated(Path("run"), {"rows": rows}).to_frame()
    assert found["value"].tolist() == [0.5, 0.25] and found["outcomes.right"].tolist()[0] == 1
    assert len(StudyOutcome("m", Path("run"), None, {}, []).to_frame()) == 0


def test_a_result_of_prune_has_a_line_for_each_plan_and_task(tmp_path: Path) -> None:
    result = PruneResult.load(write_prune(tmp_path))
    found = Pruned(tmp_path, result, ModelSettings(model="m")).to_frame()
    assert found["plan"].tolist() == [one.name for one in result.tested for _ in one.kept]
    shares = [kept.kept and kept.kept.value for one in result.tested for kept in one.kept]
    assert found["kept.value"].tolist() == shares and {"verdict", "removed", "bound"} <= set(found.columns)
