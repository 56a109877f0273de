"""Every test here may ask for the tiny model, and a file of prompts that it answers right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pruning import spare_model, written_file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


@pytest.fixture(scope="module")
def task(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_file(tmp_path_factory.mktemp("data") / "mine.jsonl", model)
