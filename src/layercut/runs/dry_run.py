"""What a command would do (``--dry-run``): its steps and their items, the checkpoints and the bytes.

    steps = (PlannedStep("answers", 40),)
    outline = Outline(steps=steps, disk_bytes=0, memory_bytes=0, folder=Path("runs/a"))
    for line in outline.lines(): ...

Time is not forecast: it is measured on the first items, and shown as time left.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from layercut.runs.atomic import nearest_existing
from layercut.runs.disk import size_text
from layercut.text import count_of

ANSWER_BYTES = 1000  # of an answer on disk, with its text


class PlannedStep(NamedTuple):
    """One step of a command."""

    name: str  # such as ``answers`` or ``training``
    items: int
    unit: str = "item"

    def describe(self) -> str:
        """``answers: 40 items``."""
        return f"{self.name}: {count_of(self.items, self.unit)}"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a command would do."""

    steps: tuple[PlannedStep, ...]
    checkpoints: int = 0  # that stay at the end
    disk_bytes: int  # at the fullest moment
    stays_bytes: int | None = None  # bytes that are left at the end; None for all of them
    memory_bytes: int  # at the fullest moment; 0 where it is not counted, as torch would have to be loaded
    memory_parts: Mapping[str, int] = field(default_factory=dict)
    """Memory by part, in bytes; empty where that is not counted by part."""
    folder: Path | None  # that is written to
    more: tuple[str, ...] = ()  # further lines about what would be made

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "steps": [step._asdict() for step in self.steps],
            "checkpoints": self.checkpoints,
            "disk_bytes": self.disk_bytes,
            "stays_bytes": self.disk_bytes if self.stays_bytes is None else self.stays_bytes,
            "free_bytes": self._free_bytes(),
            "memory_bytes": self.memory_bytes,
            "memory_parts": dict(self.memory_parts),
            "folder": None if self.folder is None else str(self.folder),
            "more": list(self.more),
        }

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [*self.more, *(step.describe() for step in self.steps)]
        free = self._free_bytes()
        if free is not None and self.disk_bytes:
            whole = self.stays_bytes in (None, self.disk_bytes)
            stays = "" if whole else f", of which {size_text(self.stays_bytes or 0)} stays"
            checkpoints = f" with {count_of(self.checkpoints, 'checkpoint')}" if self.checkpoints else ""
            short = ": too little" if self.disk_bytes > free else ""
            lines.append(
                f"disk: up to {size_text(self.disk_bytes)}{checkpoints}{stays}; {size_text(free)} is free{short}"
            )
        if self.memory_bytes:
            lines.append(f"memory: about {size_text(self.memory_bytes)} plus Python and its libraries")
        if parts := [f"{name} {size_text(part)}" for name, part in self.memory_parts.items() if part]:
            lines.append(f"of that memory: {', '.join(parts)}")
        if self.folder is not None:
            lines.append(f"would write to {self.folder}")
        return [*lines, "dry run: nothing was written"]

    def _free_bytes(self) -> int | None:
        """On the disk that is written to."""
        return None if self.folder is None else shutil.disk_usage(nearest_existing(self.folder)).free
