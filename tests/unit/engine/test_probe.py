"""The shared engine runs a model only where it gives what the model itself gives; else the plain one, in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmarks.families import NUM_LAYERS, tiny_config, tiny_model
from layercut.engine import probe
from layercut.engine.attention import Heads
from layercut.engine.packing import Pack
from layercut.engine.plain import PlainEngine
from layercut.engine.probe import fastest_engine, why_not_shared
from layercut.engine.shared import SharedEngine
from layercut.models.loading import LoadedModel
from layercut.models.sources import ModelSource
from layercut.models.structure import structure_in
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, byte_tokenizer


def loaded(model_type: str) -> LoadedModel:
    model = tiny_model(tiny_config(model_type)).requires_grad_(False)
    source = ModelSource(name=f"tiny-{model_type}", path=Path("nowhere"))
    return LoadedModel(model, byte_tokenizer(), structure_in(model), source, "0" * 16, NUM_LAYERS)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_shared_engine_runs_the_families_that_it_ran(model_type: str) -> None:
    assert isinstance(fastest_engine(tiny_loaded(model_type)), SharedEngine)


@pytest.mark.parametrize("model_type", ["cohere", "smollm3", "gemma3", "qwen2_5_vl", "glm4"])
def test_and_others_that_agree(model_type: str) -> None:
    assert why_not_shared(loaded(model_type)) == ""


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("gpt_oss", "calls its attention with the argument s_aux"),  # sinks
        ("opt", "packed texts give logits that differ by"),  # it counts positions by its mask
        ("bloom", "its layers do not run over packed texts"),  # alibi
        ("mamba", "does not use the attention interface of transformers"),
        ("qwen3_next", "does not use the attention interface of transformers"),
    ],
)
def test_the_plain_engine_runs_what_does_not_agree_and_one_line_says_why(
    model_type: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(model_type)
    with caplog.at_level(logging.WARNING):
        engines = [fastest_engine(model) for _ in range(2)]
    assert {type(engine) for engine in engines} == {PlainEngine}
    (line,) = [record.getMessage() for record in caplog.records if record.name == probe.__name__]
    assert line.startswith(f"tiny-{model_type} runs in the engine plain: ")
    assert says in line
    assert "\n" not in line


def test_a_layer_that_attends_in_another_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are a twentieth too large."""
    right = Pack.attend
    monkeypatch.setattr(Pack, "attend", lambda self, layer, heads: right(self, layer, _scaled(heads)))
    assert "packed texts give logits that differ by" in why_not_shared(tiny_loaded("llama"))


def _scaled(heads: Heads) -> Heads:
    return heads._replace(scaling=heads.scaling * 1.05)


def test_a_model_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_loaded("llama")
    first = why_not_shared(model)
    monkeypatch.setattr(probe, "_probed", lambda _: pytest.fail("asked again"))
    assert why_not_shared(model) == first
