"""The picture of the demoted-or-erased diagnostic: greedy against pass@k, and one more example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import forest, shares
from layercut.report.markup import escape
from layercut.runs.counting import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Demoted or erased"
QUESTION = "Is the right answer still there, only no longer the first that comes?"


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """All shares, one line each."""
    rows = shares(found)
    return forest(rows, arms, "right in %, with 95 % intervals") if rows else None


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """What became of the items that were lost."""
    text = []
    for arm, counts in found["data"].get("verdicts", {}).items():
        text.append(
            f"- {escape(arm)}: of {counted(counts['lost'], 'item')} that it lost greedily, "
            f"{counts['demoted']} are demoted "
            f"({counts['drawn']} came right in at least one drawn answer, {counts['top_10']} have every token of the "
            f"right answer among the first ten) and {counts['erased']} erased. One more example brought "
            f"{counts['helped']} back."
        )
    return [*text, ""] if text else []
