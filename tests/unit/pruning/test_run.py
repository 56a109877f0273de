"""The original model of prune: what is said before the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from tests.unit.pruning.conftest import run


def said(model: Path, file: Path, out: Path, **settings: Any) -> list[str]:
    lines: list[str] = []
    with pytest.raises(InputError, match="Stopped, because `strict`"):
        run(model, file, out, strict=True, say=lines.append, items=12, max_depth="1", **settings)
    return lines


def test_general_requests_are_announced_with_their_reason_and_the_way_without(
    model: Path, choices: Path, tmp_path: Path
) -> None:
    lines = said(model, choices, tmp_path / "run")
    (line,) = (line for line in lines if "general requests" in line)
    assert "24 general requests" in line and "other abilities" in line and "`goal_alone`" in line
    for name, settings in (("alone", {"goal_alone": True}), ("unhealed", {"heal": "none"})):
        assert not any("general" in line for line in said(model, choices, tmp_path / name, **settings)), name
