"""Checkpoints that others made of a model, renumbered and without a plan, compared with it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.foreign import passthrough
from tests.support.tiny import save_tiny
from tests.unit.cli.conftest import Run


def test_layers_are_those_that_are_given(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = passthrough(tiny, [(0, 2), (4, 6)], tmp_path / "other", noise=0.5)
    command = ("diagnose", tiny, other, "--only", "arithmetic", "--limit", "2", "--out", tmp_path / "run")
    ran = layercut(*command, "--layers", "0-1,4-5")
    assert ran.code == 0, ran.err
    assert "without 2 of 6 decoder layers (2,3)" in " ".join(ran.err.split())
    (arm,) = json.loads((tmp_path / "run" / "diagnose.json").read_text())["arms"][1:]
    assert arm["layers"] == [0, 1, 4, 5]
    for layers, said in (("0-3,6", "0-5"), ("3,0", "in order"), ("0-2", "names 3 layers, and the other model has 4")):
        refused = layercut(*command, "--layers", layers)
        assert refused.code == 1 and said in " ".join(refused.err.split())
    asked = ("diagnose", tiny, "1", "--layers", "1-5", "--dry-run")
    assert "1-5 says which" in " ".join(layercut(*asked).err.split()), "which layers a plan leaves is known"


def test_a_model_without_a_plan_is_compared_by_what_it_writes(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = passthrough(tiny, [(0, 4), (2, 6)], tmp_path / "other")
    ran = layercut("diagnose", tiny, other, "--only", "arithmetic", "--limit", "2", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "another model, without a plan of the original model" in (tmp_path / "run" / "diagnose.md").read_text()


def test_a_plan_that_was_made_for_another_model_decides_nothing(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    stranger = save_tiny("llama", tmp_path / "stranger", seed=5)
    cut, twice = tmp_path / "cut", tmp_path / "twice"
    assert layercut("cut", stranger, "--remove", "1", "--out", cut).code == 0
    assert layercut("cut", cut, "--remove", "0", "--out", twice).code == 0
    asked = ("--only", "arithmetic", "--limit", "2", "--dry-run")
    assert "without a plan of the original model" in " ".join(layercut("diagnose", tiny, twice, *asked).err.split())
    # A plan in the middle of the chain is one of the model that it begins with.
    assert "layers (0)" in layercut("diagnose", cut, twice, *asked).err
    assert "layers (0,1)" in layercut("diagnose", stranger, twice, *asked).err


def test_runs_of_two_models_without_a_common_plan_say_so(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = passthrough(tiny, [(0, 2), (4, 6)], tmp_path / "other", noise=0.3)
    asked = ("--tasks", "brackets", "--readouts", "rank", "--limit", 4, "--out")
    assert layercut("eval", tiny, *asked, tmp_path / "parent").code == 0
    ran = layercut("eval", other, *asked, tmp_path / "child", "--against", tmp_path / "parent")
    assert ran.code == 0 and "no plan is known" in ran.words, ran.err
    assert "no plan is known" in layercut("compare", tmp_path / "child", tmp_path / "parent").words
