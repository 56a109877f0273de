"""The time that prune has left, by the time of an item."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercut.pruning.budget import CANDIDATES, RACED
from layercut.pruning.original import OriginalModel
from layercut.pruning.state import PruneState
from layercut.selection.answers import ObjectiveTask
from layercut.tasks import load_task

SEARCH = 2.0 * 40 * (CANDIDATES * RACED + 2)
REPORT = 2.0 * 100


def original(folder: Path, **state: Any) -> OriginalModel:
    known = PruneState(folder)
    for name, value in state.items():
        known.put(name, value)
    asked = [ObjectiveTask(task=load_task("copy"), readout="short")]
    context: Any = SimpleNamespace(
        model=None, settings=None, state=known, progress=None, say=None, folder=folder, max_depth=2, asked=asked
    )
    return OriginalModel(context)


STEPS = [
    {"depth": depth, "removed": list(range(depth)), "candidates": 4, "tried": [], "healing": healing}
    for depth, healing in ((1, None), (2, "seam"))
]
BEGUN = {"seconds_per_item": {"copy (short)": 2.0}, "selection_items": 40, "announced": {"copy (short)": 100}}


def test_nothing_is_known_before_the_first_answers(tmp_path: Path) -> None:
    assert original(tmp_path).left() is None
    assert original(tmp_path, **BEGUN).left() is None, "which tasks decide is not known"


def test_the_least_is_the_confirmation_of_one_depth_and_the_most_is_all_depths(tmp_path: Path) -> None:
    left = original(tmp_path, **BEGUN, ignored=[]).left()
    assert left is not None
    low = pytest.approx(2 * REPORT * 0.7)  # the original model and depth 1
    assert left.now == (low, (2 * SEARCH + 3 * REPORT) * 1.5 + 60)
    assert left.after == (low, (SEARCH + 3 * REPORT) * 1.5 + 60), "once depth 1 is chosen"


def test_report_items_count_until_a_model_has_answered_all(tmp_path: Path) -> None:
    made = original(tmp_path, **BEGUN, ignored=[], path=STEPS, path_ended=True)
    for run in ("uncut", "depth-1", "depth-2+seam"):
        (tmp_path / run).mkdir()

    def most() -> tuple[float, float]:
        left = made.left()
        assert left is not None
        return (left.now[1] - 60) / 1.5, (left.after[1] - 60) / 1.5

    assert most() == pytest.approx((3 * REPORT, 2 * REPORT)), "a folder alone is no answer"
    for answered, run in enumerate(("uncut", "depth-1", "depth-2+seam"), start=1):
        (tmp_path / run / "metrics.json").touch()
        assert most() == pytest.approx(((3 - answered) * REPORT, max(2 - answered, 0) * REPORT))


def test_the_pace_of_the_last_plan_counts_where_one_was_scored(tmp_path: Path) -> None:
    slow = original(tmp_path / "slow", **BEGUN, ignored=[], path=STEPS, path_ended=True)
    fast = original(tmp_path / "fast", **BEGUN, pace=0.5, ignored=[], path=STEPS, path_ended=True)
    before, after = slow.left(), fast.left()
    assert before is not None and after is not None
    assert (after.now[1] - 60) == pytest.approx((before.now[1] - 60) / 4)
