"""Every test here shares the problems of generated tasks, a tiny model, and the settings of a study of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.items import problems_are_made_once  # noqa: F401

LETTERS, STEADY = "tests.support.studies:letters", "tests.support.studies:steady"


@pytest.fixture
def study(tiny: Path, tmp_path) -> Callable[..., dict[str, Any]]:
    def settings(name: str, **keys: Any) -> dict[str, Any]:
        given = {"model": str(tiny), "dtype": "float32", "device": "cpu", "out": str(tmp_path / "runs" / name)}
        return given | {"tasks": [LETTERS, STEADY], "plans": {"last": "reverse:1"}, "checkpoints": False} | keys

    return settings
