"""study.json of a study folder: its arms in order, and what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from layercut.runs.json_text import load

MANIFEST, FAILURES = "study.json", "failures"


class Failure(NamedTuple):
    """A step that was given up, while the others went on."""

    step: str
    """Such as ``reverse-3: gsm8k (chain)``."""
    arms: tuple[str, ...]
    """Which arms lack something because of it."""
    error: str
    """One line."""
    traceback: str
    """Path of a file, within the study's folder."""

    def describe(self) -> str:
        """One line for people."""
        return f"{self.step} failed: {self.error} (traceback: {self.traceback})"


def arms_in(folder: Path) -> list[dict[str, Any]]:
    """The arms in the order of the study: name, plan, criterion, depth, healing, seed. Empty for an older study."""
    return list(_read(folder).get("arms", []))


def failures_in(folder: Path) -> list[Failure]:
    """What failed and was not done since."""
    return [
        Failure(one["step"], tuple(one["arms"]), one["error"], one["traceback"])
        for one in _read(folder).get("failed", [])
    ]


def seconds_in(folder: Path) -> dict[str, float]:
    """How long whole searches and healings took, by what decides them."""
    return dict(_read(folder).get("seconds", {}))


def _read(folder: Path) -> dict[str, Any]:
    try:
        data = load(Path(folder) / MANIFEST)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
