"""The shared engine runs a model only where it gives what the model itself gives; else the plain one, in one line."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.families import NUM_LAYERS, tiny_config, tiny_model
from layercut.engine import shared
from layercut.engine.attention import Heads
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine, fastest_engine, why_not_shared
from layercut.engine.text_groups import Pack
from layercut.models.loading import LoadedModel
from tests.support.loaded import as_loaded, tiny_loaded
from tests.support.tiny import CONFIGS


def loaded(model_type: str) -> LoadedModel:
    return as_loaded(tiny_model(tiny_config(model_type)).requires_grad_(False), NUM_LAYERS)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_shared_engine_runs_the_families_that_it_ran(model_type):
    assert isinstance(fastest_engine(tiny_loaded(model_type)), SharedEngine)


@pytest.mark.parametrize("model_type", ["cohere", "smollm3", "gemma3", "qwen2_5_vl", "glm4"])
def test_and_others_that_agree(model_type):
    assert why_not_shared(loaded(model_type)) == ""


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("gpt_oss", "asks its attention for s_aux"),  # sinks
        ("opt", "packed texts give logits that differ by"),  # it counts positions by its mask
        ("bloom", "its layers do not run over packed texts"),  # alibi
        ("mamba", "does not use transformers' attention interface"),
        ("qwen3_next", "does not use transformers' attention interface"),
    ],
)
def test_the_plain_engine_runs_what_does_not_agree_and_one_line_says_why(model_type, says, caplog):
    model = loaded(model_type)
    with caplog.at_level(logging.WARNING):
        engines = [fastest_engine(model) for _ in range(2)]
    assert {type(engine) for engine in engines} == {PlainEngine}
    (line,) = [record.getMessage() for record in caplog.records if record.name == shared.__name__]
    assert line.startswith(f"tiny-{model_type} runs in") and says in line
    assert "\n" not in line


def deep_in_bfloat16() -> LoadedModel:
    """Thin MLPs in a deep Qwen2: rounding in bfloat16 grows to 1.6 in a logit, three times the bound."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=260, hidden_size=64, intermediate_size=93, num_hidden_layers=24, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.15 if "embed" in name else 0.3)
    return as_loaded(model.bfloat16(), 24)


def test_rounding_that_grows_through_the_layers_keeps_no_model_from_the_shared_engine():
    model = deep_in_bfloat16()
    assert "differ by" in shared._difference(shared._both_ways(model), model), "no bound of one step explains it"
    assert why_not_shared(model) == ""
    assert {weight.dtype for weight in model.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("make", "factor", "dtypes"),
    [
        (lambda: tiny_loaded("llama"), 1.05, {torch.float32}),
        *((deep_in_bfloat16, factor, {torch.float32, torch.bfloat16}) for factor in (1.05, 0.9)),
        (deep_in_bfloat16, 1.05, {torch.bfloat16}),  # as by a kernel that overflows; float32 agrees
    ],
)
def test_a_layer_that_attends_in_another_way_is_seen(make, factor, dtypes, monkeypatch):
    """Scores that are a twentieth too large, or a tenth too small."""
    right = Pack.attend

    def wrong(self: Pack, layer: int, heads: Heads) -> torch.Tensor:
        is_wrong = heads.query_HTd.dtype in dtypes
        return right(self, layer, heads._replace(scaling=heads.scaling * factor) if is_wrong else heads)

    monkeypatch.setattr(Pack, "attend", wrong)
    assert "packed texts" in why_not_shared(make())


def test_a_model_is_asked_once(monkeypatch):
    model = tiny_loaded("llama")
    first = why_not_shared(model)
    monkeypatch.setattr(shared, "_probed", lambda _: pytest.fail("asked again"))
    assert why_not_shared(model) == first
