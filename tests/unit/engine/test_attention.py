"""A model whose attention asks for more than the shared engine computes is refused by the argument's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.engine.attention import attention_asks
from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.models.sources import ModelSource
from layercut.models.structure import structure_in
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, byte_tokenizer

REQUEST = GenerationRequest(id="a", prompt="three sheep and", max_new_tokens=3)
UNCUT = CutPlan(num_layers=6)


def with_sinks() -> LoadedModel:
    """gpt_oss, which gives its attention a learned sink for each head."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt_oss", **CONFIGS["mixtral"], layer_types=["full_attention"] * 6)
    model = AutoModelForCausalLM.from_config(config).eval()
    source = ModelSource(name="tiny-gpt-oss", path=Path(__file__))
    return LoadedModel(byte_tokenizer(), structure_in(model), source, "0" * 16, 6, model)


def test_attention_sinks_are_refused_by_name_and_run_in_the_plain_engine() -> None:
    loaded = with_sinks()
    with pytest.raises(InputError, match="s_aux; use `?engine`? plain"):
        list(completions(SharedEngine(loaded), [REQUEST], UNCUT, Decoding()))
    assert len(list(completions(PlainEngine(loaded), [REQUEST], UNCUT, Decoding()))) == 1


@pytest.mark.parametrize(
    "argument",
    [{"attention_mask": torch.zeros(1, 1, 2, 2)}, {"dropout": 0.1}, {"is_causal": False}, {"attention_chunk_size": 4}],
    ids=lambda one: next(iter(one)),
)
def test_masks_and_other_arguments_are_refused_by_name(argument: dict[str, object]) -> None:
    model = tiny_loaded("llama").model
    attention = model.model.layers[0].self_attn
    states, turn = torch.zeros(1, 2, 32), torch.zeros(1, 2, 8)
    name = next(iter(argument))
    if name == "dropout":
        attention.attention_dropout = argument["dropout"]
        attention.train()
    call = {"attention_mask": None, **({} if name == "dropout" else argument)}
    with attention_asks(model, None), pytest.raises(InputError, match=f"LlamaAttention .* for {name};"):
        attention(hidden_states=states, position_embeddings=(turn, turn), **call)
