from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

from layercut.models.counts import cached_values, weight_counts
from tests.support.tiny import save_tiny


def test_counts_of_headers_are_those_of_the_model(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    counts = weight_counts(folder, config.num_hidden_layers)
    layers = list(model.model.layers.parameters())
    assert counts.parameters == sum(one.numel() for one in model.parameters())
    assert counts.in_layers == sum(one.numel() for one in layers)
    assert counts.of_adapters == sum(sum(one.shape) for one in layers if one.dim() == 2)
    assert (counts.hidden_size, counts.vocabulary) == (config.hidden_size, config.vocab_size)
    assert counts.in_memory("bfloat16") == 2 * counts.parameters and counts.in_memory("auto") == counts.stored_bytes
    assert cached_values(folder) == 2 * config.num_key_value_heads * config.head_dim


def test_counting_loads_no_torch() -> None:
    code = "import sys, layercut.models.counts; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
