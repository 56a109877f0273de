"""The picture of the arithmetic diagnostic: accuracies by readout, and by the size of the expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import forest, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Arithmetic"
QUESTION = "Is the result of an expression still written, ranked first among near misses, and likely?"


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """All shares, one line each; sizes of expressions as far as there are some items of them."""
    rows = shares(found)
    return forest(rows, arms, "right in %, with 95 % intervals") if rows else None


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """Nothing beside the table."""
    return []
