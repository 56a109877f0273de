"""Every test here shares the problems of generated tasks, a tiny model, and the settings of a study of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.items import problems_are_made_once  # noqa: F401
from tests.support.tiny import save_tiny

LETTERS, STEADY = "tests.support.studies:letters", "tests.support.studies:steady"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def study(tiny: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def settings(name: str, **keys: Any) -> dict[str, Any]:
        given = {"model": str(tiny), "dtype": "float32", "device": "cpu", "out": str(tmp_path / "runs" / name)}
        return given | {"tasks": [LETTERS, STEADY], "plans": {"last": "reverse:1"}, "checkpoints": False} | keys

    return settings
