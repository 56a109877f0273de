"""The picture of the degeneration diagnostic: repetition, loops, empty and endless answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import forest, shares
from layercut.report.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Degeneration"
QUESTION = "Does the model repeat itself, run on without an end, or say nothing?"


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """All shares, one line each."""
    rows = shares(found)
    return forest(rows, arms, "in %, with 95 % intervals") if rows else None


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """How answers ended."""
    finish = found["data"].get("finish", {})
    said = [
        f"{escape(arm)}: " + ", ".join(f"{count} by {reason}" for reason, count in sorted(counts.items()))
        for arm, counts in finish.items()
    ]
    return [f"How answers ended. {'; '.join(said)}.", ""] if said else []
