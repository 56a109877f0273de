"""Older names of fields in config.json: what is added, and that transformers reads the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.models.older_fields import with_older_fields
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from tests.support.tiny import save_tiny

DEFAULT = {"rope_theta": 1e5, "rope_type": "default"}
SCALED = {
    "rope_theta": 5e5,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"rope_parameters": DEFAULT}, {"rope_theta": 1e5}),
        ({"rope_parameters": SCALED}, {"rope_theta": 5e5, "rope_scaling": SCALED}),
        ({"rope_parameters": DEFAULT, "rope_theta": 7.0}, {}),
        ({"rope_parameters": {"full_attention": DEFAULT}}, {}),
        ({"rope_theta": 1e4}, {}),
    ],
)
def test_fields_are_added_where_they_say_the_same(config: dict[str, Any], added: dict[str, Any]) -> None:
    assert with_older_fields(config) == {**config, **added}
    assert with_older_fields({"text_config": config})["text_config"] == {**config, **added}


@pytest.mark.parametrize("rope", [DEFAULT, SCALED], ids=["default", "scaled"])
def test_a_cut_checkpoint_has_them_and_computes_the_same(rope: dict[str, Any], tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = rope
    config.pop("rope_theta", None)
    (source / "config.json").write_text(json.dumps(config))
    cut_checkpoint(source, CutPlan(num_layers=6, removed=(3,)), tmp_path / "cut")
    written = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert written["rope_theta"] == rope["rope_theta"] and ("rope_scaling" in written) == (rope is SCALED)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    for name in ("rope_theta", "rope_scaling"):
        written.pop(name, None)
    plain = AutoConfig.for_model(**written)
    assert model.config.rope_parameters == plain.rope_parameters
    ids = torch.arange(40)[None]
    (tmp_path / "cut" / "config.json").write_text(json.dumps(written))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()(ids).logits)
