"""Every test here shares the problems of generated tasks, and the tiny model with a file of choices, if it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.items import problems_are_made_once  # noqa: F401
from tests.support.pruning import choice_file, spare_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spare_model(tmp_path_factory.mktemp("models") / "spare")


@pytest.fixture(scope="module")
def choices(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choice_file(tmp_path_factory.mktemp("data") / "mine.jsonl", model)
