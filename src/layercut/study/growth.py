"""What may change in a study that was begun: it takes new arms, and other settings for arms that were not begun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layercut.runs.settings import CONFIG

NAMED, LISTED = ("plans", "healing"), ("criteria", "depths", "seeds")


def common(folder: Path, had: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a study must keep, as its folder has them and as they are wanted now.

    Without plans, criteria, depths, healing arms and seeds that are new, and without plans and healing arms of which
    nothing was begun.
    """
    before, now = dict(had), dict(wanted)
    parts = _begun(folder)
    for key in NAMED:
        before[key] = {name: one for name, one in had.get(key, {}).items() if name in parts}
        now[key] = {name: one for name, one in wanted.get(key, {}).items() if name in before[key]}
    for key in LISTED:
        before[key] = had.get(key, [])
        now[key] = [one for one in wanted.get(key, []) if one in before[key]]
    return before, now


def _begun(folder: Path) -> set[str]:
    """Names of plans and healing arms that have a run folder: ``last+seam-seed2`` has those of last and seam."""
    arms = [file.parent.name for file in folder.glob(f"*/{CONFIG}")]
    parts = {part for name in arms for part in name.split("+")}
    return parts | {part.rsplit("-seed", 1)[0] for part in parts}
