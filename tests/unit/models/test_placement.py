"""What dtype auto stands for, and for whom it stays the checkpoint's own."""

import logging

import pytest
import torch

from layercut.engine.handle import ModelHandle
from layercut.models import placement
from layercut.models.placement import pick_dtype
from layercut.settings import ModelSettings
from tests.support.tiny import save_tiny
from tests.unit.models.damage import edit_json


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "model")


def test_auto_is_float32_on_a_cpu(folder):
    assert pick_dtype(folder, "auto", device="cpu") == "float32"


@pytest.mark.parametrize("named", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_stands_for_itself(folder, named):
    assert pick_dtype(folder, named, device="cpu") == named


def test_an_accelerator_keeps_the_checkpoints_own(folder, monkeypatch):
    monkeypatch.setattr(placement, "pick_device", lambda device: torch.device("cuda"))
    assert pick_dtype(folder, "auto") == "auto"


def test_a_spread_model_keeps_the_checkpoints_own(folder):
    assert pick_dtype(folder, "auto", device_map="auto") == "auto"


def test_quantized_weights_stay_as_they_are(folder):
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    assert pick_dtype(folder, "auto", device="cpu") == "auto"


def test_weights_that_do_not_fit_in_float32_stay_as_they_are_and_it_is_said(folder, monkeypatch, caplog):
    monkeypatch.setattr(placement, "memory_bytes", lambda: 1000)
    with caplog.at_level(logging.WARNING):
        assert pick_dtype(folder, "auto", device="cpu") == "auto"
    assert "keeps its checkpoint's dtype" in caplog.text


def test_a_run_is_known_by_what_auto_stood_for(folder):
    def described(dtype):
        return ModelHandle(ModelSettings(model=str(folder), device="cpu", dtype=dtype)).describe()

    assert described("auto") == described("float32") != described("bfloat16")
