"""What dtype auto stands for, for whom it stays the checkpoint's own, and memory that is returned to the system."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from layercut.engine.handle import ModelHandle
from layercut.models import placement
from layercut.models.placement import pick_torch_dtype
from layercut.settings import ModelSettings
from tests.support.tiny import save_tiny
from tests.unit.models.damage import edit_json


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "model")


def test_what_auto_stands_for(folder, monkeypatch):
    assert pick_torch_dtype(folder, "auto", device="cpu") == "float32"
    for named in ("float32", "bfloat16", "float16"):
        assert pick_torch_dtype(folder, named, device="cpu") == named
    assert pick_torch_dtype(folder, "auto", device_map="auto") == "auto", "a spread model keeps the checkpoint's own"
    with monkeypatch.context() as patch:
        patch.setattr(placement, "pick_device", lambda device: torch.device("cuda"))
        assert pick_torch_dtype(folder, "auto") == "auto", "and so does an accelerator"
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    assert pick_torch_dtype(folder, "auto", device="cpu") == "auto"


def test_weights_that_do_not_fit_in_float32_stay_as_they_are_and_it_is_said(folder, monkeypatch, caplog):
    enough = 4 * placement.num_elements(folder) / placement.MEMORY_SHARE
    with caplog.at_level(logging.WARNING):
        for share, dtype in ((1.01, "float32"), (0.99, "auto")):
            monkeypatch.setattr(placement, "memory_bytes", lambda share=share: share * enough)
            assert pick_torch_dtype(folder, "auto", device="cpu") == dtype
    assert "keeps its checkpoint's dtype" in caplog.text


def test_a_run_is_known_by_what_auto_stood_for(folder):
    def described(dtype):
        return ModelHandle(ModelSettings(model=str(folder), device="cpu", dtype=dtype)).describe()

    assert described("auto") == described("float32") != described("bfloat16")


PROGRAM = """
import torch
from layercut.models.placement import give_back_memory

def taken():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

torch.set_num_threads(1)
before = taken()
parts = [torch.ones(20_000) for _ in range(3000)]  # below the allocator's threshold, so from its own heap
kept = parts[::300]
full = taken()
del parts
freed = taken()
give_back_memory()
print(full - before, freed - before, taken() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_is_freed_is_returned() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, freed, returned = map(int, ran.stdout.split())
    assert full > 200_000, "in kB: 240 MB"
    assert freed > 0.5 * full, "the allocator keeps it"
    assert returned < 0.2 * full
