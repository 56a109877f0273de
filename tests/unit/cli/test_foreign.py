"""Checkpoints that others made of a model: healed, renumbered, repeated or of another width, beside their parent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layercut.surgery.lineage import Lineage, Parent, match_layers
from tests.support.foreign import passthrough, published
from tests.support.tiny import save_tiny
from tests.unit.cli.conftest import Run

HEALED = {
    "lora": ("--method", "lora", "--rank", 2),
    "full": ("--method", "full"),
    "seam": ("--method", "seam"),
}
TRAINED = ("--max-steps", 3, "--learning-rate", 0.02, "--warmup-steps", 0, "--train-batch", 4, "--micro-batch", 4)


@pytest.mark.parametrize("method", HEALED)
def test_a_cut_and_healed_model_is_found_without_its_plan(
    method: str, layercut: Run, tiny: Path, tmp_path: Path
) -> None:
    if method != "seam":
        pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    (tmp_path / "prompts.txt").write_text("".join(f"count to {number}\n" for number in range(12)))
    assert layercut("cut", tiny, "--remove", "2,4", "--out", tmp_path / "cut").code == 0
    ran = layercut(
        "heal", tmp_path / "cut", "--teacher", tiny, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "run",
        "--max-new-tokens", 6, "--temperature", 0.8, "--keep-unfinished", "--min-tokens", 1, "--held-out", 0,
        *HEALED[method], *(TRAINED if method != "seam" else ()),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    other = published(tmp_path / "run" / "checkpoint", tmp_path / "other")
    found = match_layers(tiny, other)
    assert found.layers == (0, 1, 3, 5) and found.removed == (2, 4)
    changed = [match.change for match in found.matches]
    # A seam changes the layer below each cut alone; training changes all of them.
    assert changed == ["none", "retrained", "retrained", "none"] if method == "seam" else {*changed} == {"retrained"}
    told = layercut("diagnose", tiny, other, "--only", "degeneration", "--limit", 2, "--out", tmp_path / "found")
    assert told.code == 0, told.err
    assert "(2,4), found by its weights" in " ".join(told.err.split())


def test_a_renumbered_and_retrained_model_beside_its_parent(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = passthrough(tiny, [(0, 2), (4, 6)], tmp_path / "other", noise=0.5)
    command = ("diagnose", tiny, other, "--only", "arithmetic", "--limit", "2", "--out", tmp_path / "run")
    ran = layercut(*command)
    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert "0 is 0 (0.89" in said and "3 is 5 (0." in said
    assert "(2,3), found by its weights" in said
    (arm,) = json.loads((tmp_path / "run" / "diagnose.json").read_text())["arms"][1:]
    assert arm["layers"] == [0, 1, 4, 5]
    assert Lineage.from_dict(arm["lineage"]) == match_layers(tiny, other)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("diagnose.md", "report.html")}
    page = before["diagnose.md"].decode()
    assert "layer | in the parent" in page and "| 2 | 4 | 0.8" in page
    assert "Layers of other" in before["report.html"].decode()
    assert layercut("report", tmp_path / "run").code == 0
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}


def test_a_model_that_repeats_layers_shares_no_plan_with_its_parent(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = passthrough(tiny, [(0, 4), (2, 6)], tmp_path / "other")
    found = match_layers(tiny, other)
    assert [match.label for match in found.matches] == ["0", "1", "2", "3", "2 repeated", "3 repeated", "4", "5"]
    assert found.layers is None and found.removed == ()
    ran = layercut("diagnose", tiny, other, "--only", "arithmetic", "--limit", "2", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    page = (tmp_path / "run" / "diagnose.md").read_text()
    assert "6 layers; weights" in page
    assert "(highest cosine 1.000)" in page
    assert "| 4 | 2 | 1.0000 |" in page


@pytest.mark.parametrize("form", ["objective", "diagnose"])
def test_a_sweep_shows_layers_with_the_numbers_of_the_parent(
    form: str, layercut: Run, tiny: Path, tmp_path: Path
) -> None:
    other = passthrough(tiny, [(0, 2), (3, 6)], tmp_path / "other", noise=0.3)
    asked = (
        ("--objective", "brackets", "--readouts", "rank")
        if form == "objective"
        else ("--diagnose", "--only", "arithmetic")
    )
    command = ("sweep", other, *asked, "--limit", "2", "--layers", "1-3", "--out", tmp_path / "run")
    bare = layercut(*command, "--json")
    assert bare.code == 0 and "parent" not in json.loads(bare.out)
    ran = layercut(*command, "--parent", tiny)
    assert ran.code == 0, ran.err
    told = f"made of {tiny}: 5 of the parent's 6 layers, without 2; weights changed in 5"
    assert told in " ".join(ran.err.split())
    assert "2 (3)" in ran.words and "1 (1)" in ran.words and "in brackets" in ran.words.lower()
    file, page = ("sweep.json", "sweep.md") if form == "objective" else ("layers.json", "layers.md")
    written = json.loads((tmp_path / "run" / file).read_text())
    assert Parent.from_dict(written.pop("parent")) == Parent(str(tiny), match_layers(tiny, other))
    assert written == json.loads(bare.out)  # the parent decides no number
    text = (tmp_path / "run" / page).read_text()
    assert "| 3 (4) |" in text and "| 3 | 4 | 0.9" in text and "6 layers, without 2" in text
    assert layercut("report", tmp_path / "run").code == 0
    assert (tmp_path / "run" / page).read_text() == text


def test_a_parent_of_another_architecture_gives_no_numbers(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    other = save_tiny("gpt2", tmp_path / "other")
    command = ("sweep", other, "--objective", "brackets", "--readouts", "rank", "--limit", "2", "--layers", "1")
    ran = layercut(*command, "--parent", tiny, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "another architecture" in ran.words
    assert "no plan" in ran.words and "in brackets" not in ran.words


def test_a_plan_that_was_made_for_another_parent_decides_nothing(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    stranger = save_tiny("llama", tmp_path / "stranger", seed=5)
    cut, twice = tmp_path / "cut", tmp_path / "twice"
    assert layercut("cut", stranger, "--remove", "1", "--out", cut).code == 0
    assert layercut("cut", cut, "--remove", "0", "--out", twice).code == 0
    asked = ("--only", "degeneration", "--limit", "2", "--dry-run")
    said = " ".join(layercut("diagnose", tiny, twice, *asked).err.split())
    assert f"made for {stranger}, another model" in said
    assert "6 layers; 4 new" in said
    # A plan in the middle of the chain is one of the model that it begins with.
    assert "layers (0)" in layercut("diagnose", cut, twice, *asked).err
    assert "layers (0,1)" in layercut("diagnose", stranger, twice, *asked).err


def test_runs_of_a_parent_and_its_child_name_the_layers_that_are_gone(
    layercut: Run, tiny: Path, tmp_path: Path
) -> None:
    other = passthrough(tiny, [(0, 2), (4, 6)], tmp_path / "other", noise=0.3)
    parent, child, less = (tmp_path / name for name in ("parent", "child", "less"))
    asked = ("--tasks", "brackets", "--readouts", "rank", "--limit", 4, "--out")
    assert layercut("eval", tiny, *asked, parent).code == 0
    ran = layercut("eval", other, *asked, child, "--against", parent)
    assert ran.code == 0, ran.err
    assert "2,3; found by its weights" in " ".join(ran.out.split())
    assert layercut("eval", other, *asked, less, "--remove", 2).code == 0
    found = json.loads(layercut("compare", parent, less, "--json").out)
    assert found["second"]["removed"] == [2, 3, 4], "layer 2 of the child is layer 4 of its parent"
    turned = layercut("compare", child, parent)
    assert "without 2,3; weights changed" in turned.words
    shutil.rmtree(other)
    gone = layercut("compare", parent, child)
    assert gone.code == 0 and "child, uncut, 4" in gone.words
