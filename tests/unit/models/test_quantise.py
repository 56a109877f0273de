"""Weights quantised by torchao: what runs, what is stored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, MissingExtra
from layercut.models.placement import quantise_weights, stored_bytes
from layercut.pruning.speed import other_model
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.pruning import spare_model

pytest.importorskip("torchao", reason="torchao is not installed (layercut[torchao])")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


def handle(model: Path, engine: str = "shared", quantize: str | None = "int8") -> ModelHandle:
    return ModelHandle(ModelSettings(model=str(model), device="cpu", engine=engine, quantize=quantize))


def test_eight_bits_are_a_quarter_of_the_linear_weights(model: Path) -> None:
    whole, small = handle(model, quantize=None).loaded.model, handle(model).loaded.model
    linear = [part for part in whole.modules() if isinstance(part, torch.nn.Linear)]
    for part, other in zip(linear, (one for one in small.modules() if isinstance(one, torch.nn.Linear)), strict=True):
        error = (part.weight - other.weight.dequantize()).abs().amax(dim=1)
        assert (error <= part.weight.abs().amax(dim=1) / 127).all(), "half a step, by rows"
    saved = stored_bytes(whole) - stored_bytes(small)
    rows = sum(part.out_features for part in linear)
    tied = whole.lm_head.weight.numel() if whole.config.tie_word_embeddings else 0
    bare = saved + 4 * tied - sum(3 * part.weight.numel() for part in linear)
    assert -8 * rows <= bare <= -4 * rows, "a scale for each row, and perhaps where zero lies"
    assert handle(model).disk_bytes(CutPlan(num_layers=6)) == stored_bytes(small)
    assert handle(model).disk_bytes(CutPlan(num_layers=6, removed=(2,))) < stored_bytes(small)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("removed", [(), (2, 4)])
def test_both_engines_give_the_same_answers(model: Path, removed: tuple[int, ...], kind: str) -> None:
    requests = [GenerationRequest(id=str(one), prompt=f"{one} + {one} =", max_new_tokens=8) for one in range(6)]
    plan = CutPlan(num_layers=6, removed=removed)
    found = []
    for engine in ("shared", "plain"):
        answers = completions(handle(model, engine, kind).engine, requests, plan, Decoding())
        found.append({one.id: one.text for batch in answers for one in batch})
    assert found[0] == found[1] and len(found[0]) == 6


def test_a_run_of_it_is_not_one_of_the_original(model: Path) -> None:
    assert [handle(model, quantize=kind).describe()["quantize"] for kind in ("int8", None)] == ["int8", None]


def test_it_is_named_after_the_model(model: Path) -> None:
    settings = ModelSettings(model=str(model), device="cpu")
    named = other_model(settings, f"{model}@int8").settings
    assert (named.model, named.quantize) == (str(model), "int8")
    named = other_model(settings, f"{model}@int4").settings
    assert (named.quantize, named.dtype) == ("int4", "bfloat16")
    with pytest.raises(InputError, match="@int7"):
        other_model(settings, f"{model}@int7")


def test_what_cannot_be_quantised_is_refused_in_a_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="quantize is for models in transformers, and the engine is llama.cpp"):
        ModelSettings(model=str(model), engine="llama.cpp", quantize="int8")
    with pytest.raises(InputError, match="Did you mean"):
        ModelSettings(model=str(model), quantize="int9")
    with pytest.raises(InputError, match="torchao cannot quantise .* to fp8 here") as caught:
        monkeypatch.setattr("torchao.quantization.Float8WeightOnlyConfig", lambda: 1 / 0)
        _ = handle(model, quantize="fp8").loaded
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="4 bits are multiplied on cards alone"):
        quantise_weights(torch.nn.Linear(64, 32), "int4", "mine")
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(MissingExtra, match="torchao"):
        _ = handle(model).loaded
