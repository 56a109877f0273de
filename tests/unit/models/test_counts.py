from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from layercut.engine.handle import ModelHandle
from layercut.models.counts import cached_values
from layercut.settings import ModelSettings
from tests.support.tiny import save_tiny


@pytest.mark.parametrize(("family", "layers_at"), [("llama", "model.layers"), ("gpt2", "transformer.h")])
def test_counts_of_headers_are_those_of_the_model(family: str, layers_at: str, tmp_path: Path) -> None:
    handle = ModelHandle(ModelSettings(model=str(save_tiny(family, tmp_path / "tiny")), device="cpu"))
    model = AutoModelForCausalLM.from_pretrained(handle.source.path)
    config, counts = model.config, handle.counts
    layers = list(model.get_submodule(layers_at).parameters())
    assert counts.parameters == sum(one.numel() for one in model.parameters())
    assert counts.in_layers == sum(one.numel() for one in layers)
    assert counts.of_adapters == sum(sum(one.shape) for one in layers if one.dim() == 2)
    assert (counts.hidden_size, counts.vocabulary) == (config.hidden_size, config.vocab_size)
    assert counts.in_memory("bfloat16") == 2 * counts.parameters and counts.in_memory("auto") == counts.stored_bytes
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    assert cached_values(handle.source.path) == 2 * heads * size


def test_counting_loads_no_torch() -> None:
    code = "import sys, layercut.models.counts; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
