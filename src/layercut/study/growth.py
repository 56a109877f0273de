"""Permitted changes of a study that was begun: it takes new arms, and other settings for arms that were not begun.

A healing arm is begun once weights or answers of it are kept. One that failed before, for want of memory say, may be
given other settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layercut.runs.directory import ENVIRONMENT
from layercut.runs.lock import LOCK
from layercut.runs.settings import CONFIG

NAMED, LISTED = ("plans", "healing"), ("criteria", "depths", "seeds")
_NOTHING_YET = frozenset({CONFIG, ENVIRONMENT, LOCK, "plan.json", "loss.jsonl"})
"""Files that stand in the folders of a healing arm before weights or answers of it are kept."""


def healing_folder(study: Path, arm: str) -> Path:
    """The run folder of the healing of an arm ``CUT+NAME``."""
    cut, _, name = arm.partition("+")
    return study / cut / f"heal-{name}"


def is_begun(study: Path, arm: str) -> bool:
    """True if anything is lost with the run folder and the healing folder of a healing arm."""
    folders = (study / arm, healing_folder(study, arm))
    return any(file.name not in _NOTHING_YET for folder in folders for file in folder.rglob("*") if not file.is_dir())


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
    found = (file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    arms = [name for name in found if "+" not in name or is_begun(folder, name)]
    parts = {part for name in arms for part in name.split("+")}
    return parts | {part.rsplit("-seed", 1)[0] for part in parts}
