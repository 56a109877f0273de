"""The public Python API: its names, and that its steps do what the verbs do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import layercut
from layercut.errors import InputError
from layercut.settings import CalibrationSettings, TaskSettings
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


def test_every_public_name_is_there_and_documented() -> None:
    promised = {"load_model", "CutPlan", "remove_layers", "select_layers", "evaluate", "heal"}
    assert promised < set(layercut.__all__) == set(dir(layercut))
    for name in layercut.__all__:
        assert name == "__version__" or getattr(layercut, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = layercut.prune


def test_choose_and_cut(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    text = CalibrationSettings(num_texts=2, max_tokens=16)
    plan = layercut.select_layers(
        tiny, "block_influence", 2, out=tmp_path / "bi", protect="first:1,last:1", calibration=text
    )
    assert len(plan.removed) == 2 and not {0, 5} & set(plan.removed)
    assert layercut.CutPlan.load(tmp_path / "bi" / "plan.json").removed == plan.removed
    assert set(plan.scores["importance"]) == set("1234")  # of the layers that may go
    cut = layercut.cut(tiny, plan, tmp_path / "cut", say=said.append)
    assert AutoModelForCausalLM.from_pretrained(cut).config.num_hidden_layers == 4
    assert layercut.CutPlan.load(cut / "plan.json").removed == plan.removed
    assert any("comparing" in line for line in said)
    with pytest.raises(InputError, match="not an empty folder"):
        layercut.cut(tiny, "reverse:1", cut)


def test_a_task_judges_plans_and_models(tiny: Path, tmp_path: Path) -> None:
    ranked = TaskSettings(task="arithmetic", readouts=("rank",), limit=12)
    with pytest.raises(InputError, match="not above guessing"):  # a random model knows no sums
        layercut.select_layers(tiny, "task_accuracy", 1, out=tmp_path / "search", tasks=[ranked], protect="none")
    loaded, plan = layercut.load_model(str(tiny)), layercut.CutPlan(num_layers=6, removed=(1,))
    found = layercut.evaluate(
        layercut.load_task("arithmetic"), layercut.PlainEngine(loaded), plan, readout="rank", limit=4
    )
    assert found.metrics[0]["n"] == len(found.records) == 4


def test_diagnose_compares_with_the_uncut_model(tiny: Path, tmp_path: Path) -> None:
    cut = layercut.cut(layercut.ModelSettings(model=str(tiny)), "reverse:2", tmp_path / "cut", verify=False)
    done = layercut.diagnose(tiny, [cut], only=["brackets"], limit=2, num_samples=1, out=tmp_path / "broken")
    assert done.report.is_file() and set(done.data["diagnostics"]) == {"brackets"}


@pytest.mark.parametrize("method", ["seam", "lora"])
def test_heal_gives_the_folder_of_the_checkpoint(method: str, tiny: Path, tmp_path: Path) -> None:
    if method != "seam":
        pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    cut = layercut.cut(tiny, "2,4", tmp_path / "cut")
    training = {"method": method, "rank": 2, "max_steps": 2, "save_every": 2}
    healed = layercut.heal(
        cut, tiny, "task:arithmetic", out=tmp_path / "run", limit=40, responses="original", **training
    )
    assert healed == tmp_path / "run" / "checkpoint"
    assert json.loads((healed / "plan.json").read_text())["healing"][0]["method"] == method
    assert AutoModelForCausalLM.from_pretrained(healed).config.num_hidden_layers == 4
    with pytest.raises(InputError, match="unknown method"):
        layercut.heal(cut, tiny, "task:arithmetic", out=tmp_path / "run", method="prayer")
