"""The original model of prune: what is said before the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.pruning.conftest import DEPTHS, run


def said(model: Path, file: Path, out: Path, **settings: Any) -> list[str]:
    """Lines up to what the report items can show."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "too few" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, file, out, say=say, items=12, smaller=DEPTHS[1], **settings)
    return lines


def test_general_requests_are_announced_with_their_reason_and_the_way_without(
    model: Path, choices: Path, tmp_path: Path
) -> None:
    lines = said(model, choices, tmp_path / "run")
    (line,) = (line for line in lines if "general requests" in line)
    assert "24 general requests" in line and "other abilities" in line and "`goal_alone`" in line
    for name, settings in (("alone", {"goal_alone": True}), ("unhealed", {"heal": "none"})):
        assert not any("general" in line for line in said(model, choices, tmp_path / name, **settings)), name
