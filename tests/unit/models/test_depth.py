"""How deep a model is, known before its weights are fetched or converted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.depth import depth_of
from layercut.models.sources import describe_source, resolve
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny
from tests.unit.models.gguf_maker import write_gguf
from tests.unit.models.hub_server import FakeHub


@pytest.mark.parametrize("family", CONFIGS)
def test_the_depth_of_a_folder_is_that_of_its_weights(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path / family)
    assert depth_of(str(folder)) == describe_source(resolve(str(folder))).num_layers == NUM_LAYERS


def test_of_a_hub_model_no_weights_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["lab/tiny"] = save_tiny("llama", tmp_path / "repo")
    assert depth_of("lab/tiny") == NUM_LAYERS
    assert "config.json" in hub.fetched() and not any(name.endswith(".safetensors") for name in hub.fetched())
    hub.asked.clear()
    assert depth_of("lab/tiny") == NUM_LAYERS and hub.asked == [], "the cache holds it"


def test_a_hub_model_that_is_not_there_is_said(hub: FakeHub) -> None:
    with pytest.raises(InputError, match="lab/none is neither"):
        depth_of("lab/none")


def test_of_a_gguf_file_only_the_head_is_read(tmp_path: Path) -> None:
    assert depth_of(str(write_gguf(tmp_path / "tiny.gguf"))) == NUM_LAYERS


def test_an_adapter_is_as_deep_as_its_base(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base"), "r": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert depth_of(str(adapter)) == NUM_LAYERS


def test_what_is_no_model_has_no_depth(tmp_path: Path) -> None:
    assert depth_of(str(tmp_path / "missing.gguf")) is None
    with pytest.raises(InputError, match="unknown bundled model"):
        depth_of("bundled:none")
