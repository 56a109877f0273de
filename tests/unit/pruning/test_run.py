"""The original model of prune: what is said before the search."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from layercut.errors import InputError
from layercut.pruning.job import prune_model
from layercut.pruning.settings import PruneSettings
from layercut.settings import ModelSettings


def said(model: Path, file: Path, out: Path, **settings: object) -> list[str]:
    lines: list[str] = []
    wanted = PruneSettings(tasks=(str(file),), items=12, max_depth="1", no_side_effects=True, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Stopped, because `strict`"):
        prune_model(
            ModelSettings(model=str(model), device="cpu"),
            wanted,
            out=out,
            strict=True,
            console=Console(quiet=True),
            say=lines.append,
        )
    return lines


def test_general_requests_are_announced_with_their_reason_and_the_way_without(
    model: Path, choices: Path, tmp_path: Path
) -> None:
    lines = said(model, choices, tmp_path / "run")
    (line,) = (line for line in lines if "general requests" in line)
    assert "24 general requests" in line and "other abilities" in line and "`goal_alone`" in line
    for name, settings in (("alone", {"goal_alone": True}), ("unhealed", {"heal": "none"})):
        assert not any("general" in line for line in said(model, choices, tmp_path / name, **settings)), name
