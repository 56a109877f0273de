"""Markers: ``slow`` needs --runslow, ``gpu`` a CUDA device. Nothing here reaches a network."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

ROOT = Path(__file__).parent.parent
FREEZE_EVERY = 300
"""Imported modules after which the garbage collector is told again to pass over what is there."""
_num_frozen = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {} if config.getoption("--runslow") else {"slow": "needs --runslow"}
    if any("gpu" in item.keywords for item in items) and not _has_gpu():
        skips["gpu"] = "needs a CUDA device, and there is none here"
    for mark, reason in skips.items():
        for item in items:
            if mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep the million objects of torch and transformers out of every later collection, which took seconds a test."""
    global _num_frozen
    if len(sys.modules) >= _num_frozen + FREEZE_EVERY:
        gc.collect()
        gc.freeze()
        _num_frozen = len(sys.modules)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of real benchmark files beside the checkout; tests that read it skip where it is not."""
    folder = Path(os.environ.get("LAYERCUT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no benchmark files beside the checkout (set LAYERCUT_DATA)")
    return folder
