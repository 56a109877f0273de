"""Retention over the length of the original model's answers: the section of report.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.evidence.depth import FEWEST_OF_EACH, FEWEST_SOLVED
from layercut.report.table import Column, Part, Table
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
    table = Table(
        name="long-answers",
        caption="Are long answers lost more often?",
        columns=[
            Column("task", lambda row: row.task),
            Column("readout", lambda row: row.readout),
            Column("run", lambda row: row.cut.name),
            Column("n solved", lambda row: f"{row.depth.num_solved:,}", numeric=True),
            Column("kept", _kept, numeric=True),
            Column("median depth", _median, numeric=True),
            Column("slope", _slope),
        ],
        rows=measured,
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


def _kept(row: ComparisonRow) -> str:
    depth = row.depth
    return number(depth.num_kept / depth.num_solved, digits=1) if depth and depth.num_solved else "-"


def _median(row: ComparisonRow) -> str:
    return "-" if row.depth is None or row.depth.median_depth is None else f"{row.depth.median_depth:g}"


def _slope(row: ComparisonRow) -> str:
    assert row.depth is not None
    if row.depth.slope is None:
        return f"n/a: {row.depth.refused}"
    return with_interval(row.depth.slope, digits=1, sign=True)
