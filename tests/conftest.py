"""Markers: ``slow`` needs --runslow, ``gpu`` needs --rungpu. Nothing here reaches a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run tests marked slow")
    parser.addoption("--rungpu", action="store_true", help="also run tests marked gpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark in ("slow", "gpu"):
        if not config.getoption(f"--run{mark}"):
            skip = pytest.mark.skip(reason=f"needs --run{mark}")
            for item in items:
                if mark in item.keywords:
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of real benchmark files beside the checkout; tests that read it skip where it is not."""
    folder = Path(os.environ.get("LAYERCUT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no benchmark files beside the checkout (set LAYERCUT_DATA)")
    return folder
