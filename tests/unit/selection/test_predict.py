"""A prediction in the folder of a sweep: the same answers, and a comparison where both are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.progress.bars import SelectionProgress
from layercut.report.prediction import prediction_report
from layercut.selection.predict import Predicted, predict_layers
from layercut.selection.sweep import sweep_model
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.tasks.base import Readout, Sample, Score
from tests.support.search import NeedyTask
from tests.support.tiny import save_tiny

QUIET = Console(quiet=True)
WANTED: dict[str, Any] = {"seed": 0, "decoding": DecodingSettings(), "dry_run": False, "say": lambda text: None}


@dataclass
class SaidTask(NeedyTask):
    """Whatever is written is right, and its score falls with its length, so that a tiny random model has traces."""

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        return GenerationRequest(id=sample.id, prompt=f"{sample.id} is", max_new_tokens=8)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        share = (sum(map(ord, answer.text)) % 97 + 1) / 100
        return Score({"share": share}, answer.text, "right")


def said() -> SaidTask:
    return SaidTask(name="said", num_items=6, readouts=("short",), partial=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


def predicted(model: str, out: Path) -> Predicted:
    objective = [TaskSettings(task=f"{__name__}:said", limit=4)]
    settings = ModelSettings(model=model, device="cpu", dtype="float32")
    done = predict_layers(settings, objective=objective, out=out, progress=SelectionProgress(QUIET), **WANTED)
    assert done is not None
    assert prediction_report(done.folder) == done.report
    return done


def test_alone_and_then_beside_a_sweep(tiny: str, tmp_path: Path) -> None:
    alone = predicted(tiny, tmp_path / "run")
    assert sorted(alone.data["order"]) == list(range(6))
    assert alone.data["num_traces"] == 4
    assert alone.data["sweep"] is None
    assert "No sweep" in alone.report.read_text()
    layers, num_tokens = alone.data["layers"], alone.data["num_tokens"]
    assert all(sum(rise["n"] for rise in one["kinds"].values()) == num_tokens for one in layers)
    rises = [sum(rise["n"] * rise["value"] for rise in one["kinds"].values()) / num_tokens for one in layers]
    uncut = layers[0]["nll"] - rises[0]
    assert rises == pytest.approx([one["nll"] - uncut for one in layers]), "the kinds are all tokens"
    assert uncut > 0 and len({round(rise, 6) for rise in rises}) == 6
    lines = {file.name: file.read_text() for file in (tmp_path / "run" / "samples").iterdir()}
    settings = ModelSettings(model=tiny, device="cpu", dtype="float32")
    objective = [TaskSettings(task=f"{__name__}:said", limit=4)]
    assert sweep_model(settings, objective=objective, out=tmp_path / "run", console=QUIET, **WANTED)
    both = predicted(tiny, tmp_path / "run")
    assert both.data["layers"] == alone.data["layers"]
    assert [curve["name"] for curve in both.data["sweep"]] == ["said (short)"]
    assert set(both.data["sweep"][0]["scores"]) == {str(layer) for layer in range(6)}
    assert "said (short) | 6 |" in both.report.read_text()
    # The traces were read once: the second prediction adds nothing to what was measured on them.
    after = (tmp_path / "run" / "samples" / "traces.divergence_by_kind.jsonl").read_text()
    assert after == lines["traces.divergence_by_kind.jsonl"]
