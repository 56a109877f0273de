"""Retention over the length of the original model's answers: the section of report.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.evidence.depth import FEWEST_OF_EACH, FEWEST_SOLVED
from layercut.report.elements import Part, Table
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.evidence.comparison import ComparisonRow

SHORTEST = 3
"""Tokens: where half of the answers come earlier, as words and letters do, a slope over their length says nothing."""


def depth_section(rows: Sequence[ComparisonRow]) -> list[Part]:
    """The whole section, a line per task, generated readout and cut run; nothing where there is none."""
    measured = [row for row in rows if row.is_headline and row.depth and (row.depth.median_depth or 0) >= SHORTEST]
    if not measured:
        return []
    lines = []
    for row in measured:
        depth = row.depth
        assert depth is not None
        kept = number(depth.num_kept / depth.num_solved, digits=1) if depth.num_solved else "-"
        cells = [
            row.task,
            row.readout,
            row.cut.name,
            f"{depth.num_solved:,}",
            kept,
            "-" if depth.median_depth is None else f"{depth.median_depth:g}",
            f"n/a: {depth.refused}" if depth.slope is None else with_interval(depth.slope, digits=1, sign=True),
        ]
        lines.append(cells)
    table = Table(
        name="long-answers",
        caption="Are long answers lost more often?",
        head=["task", "readout", "run", "n solved", "kept", "median depth", "slope"],
        rows=lines,
        numeric=frozenset({3, 4, 5}),
    )
    return [
        "## Are long answers lost more often?",
        "",
        "Items that the original model solves, by depth: the number of tokens that it wrote before its answer. "
        "kept: share of these that the pruned model solves too, in %. slope: change of kept, in points, for each "
        "doubling of 1 + depth (least squares, 95 % interval by HC3). Below 0, longer answers are lost more often.",
        "",
        table,
        "",
        f"No slope is computed for fewer than {FEWEST_SOLVED} solved items, or fewer than {FEWEST_OF_EACH} kept or "
        "lost.",
        "",
    ]
