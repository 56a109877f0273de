"""Shares of the depth (25%) and of the score (--keep) in select and cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.selection.greedy import prefix_that_keeps
from layercut.selection.specs import LayerSpec
from layercut.surgery.plan import CutPlan, as_plan
from tests.unit.cli.conftest import Run, layercut, tiny  # noqa: F401 - the fixtures

BRIGHT = "tests.support.studies:bright"


def searched(values: list[float | None], criterion: str = "task_accuracy") -> CutPlan:
    rounds = [{"value": value} for value in values]
    removed = tuple(range(5, 5 - len(values), -1))
    return CutPlan(num_layers=6, removed=removed, criterion=criterion, scores={"rounds": rounds, "uncut": 0.8})


def test_a_search_is_shortened_to_its_deepest_part_that_keeps_enough() -> None:
    assert prefix_that_keeps(searched([0.8, 0.72, 0.5]), 0.9).removed == (5, 4)
    assert prefix_that_keeps(searched([0.8, 0.6, 0.76]), 0.9).removed == (5, 4, 3), "a later round made up for it"
    assert len(prefix_that_keeps(searched([0.8, 0.72, 0.5]), 0.9).scores["rounds"]) == 2
    with pytest.raises(InputError, match="keeps 50%"):
        prefix_that_keeps(searched([0.4, 0.2]), 0.9)
    with pytest.raises(InputError, match="does not record"):
        prefix_that_keeps(CutPlan(num_layers=6, removed=(1,), criterion="random"), 0.9)


def test_shares_of_the_depth_and_lists_of_layers() -> None:
    assert LayerSpec.parse("reverse:25%").bind(num_layers=30).removed == tuple(range(29, 21, -1))
    assert len(LayerSpec.parse("random:10%").bind(num_layers=30, seed=1).removed) == 3
    with pytest.raises(InputError, match="not say which layers"):
        LayerSpec.parse("25%").bind(num_layers=30)
    assert as_plan("3,1-2", 6).removed == (3, 1, 2) == as_plan([3, 1, 2], 6).removed
    with pytest.raises(InputError, match="is no plan"):
        as_plan(["3"], 6)  # type: ignore[list-item]


def test_a_share_of_a_model_is_cut(layercut: Run, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    done = layercut("cut", tiny, "--remove", "34%", "--out", tmp_path / "cut", "--device", "cpu")
    assert done.code == 0, done.err
    plan = json.loads((tmp_path / "cut" / "plan.json").read_text())
    assert plan["criterion"] == "block_influence" and len(plan["removed"]) == 2
    assert "34% is 2 of 6" in done.err


def test_a_search_to_a_share_and_its_shorter_cut(layercut: Run, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ("select", tiny, "--criterion", "task_accuracy", "--objective", BRIGHT, "--limit", 6, "--device", "cpu")
    done = layercut(*words, "--remove", "50%", "--out", tmp_path / "whole", "--held-out", 0)
    assert done.code == 0, done.err
    whole = json.loads((tmp_path / "whole" / "plan.json").read_text())
    assert len(whole["removed"]) == 3
    kept = layercut(*words, "--remove", "50%", "--keep", 0.9, "--out", tmp_path / "kept", "--held-out", 0)
    short = json.loads((tmp_path / "kept" / "plan.json").read_text()) if not kept.code else None
    rounds = [one["value"] / whole["scores"]["uncut"] for one in whole["scores"]["rounds"]]
    fine = [depth for depth, value in enumerate(rounds, start=1) if value >= 0.9]
    assert fine and short is not None and short["removed"] == whole["removed"][: max(fine)]
    cut = layercut("cut", tiny, "--remove", tmp_path / "whole" / "plan.json", "--keep", 0.9, "--out", tmp_path / "cut")
    assert cut.code == 0, cut.err
    assert json.loads((tmp_path / "cut" / "plan.json").read_text())["removed"] == short["removed"]
