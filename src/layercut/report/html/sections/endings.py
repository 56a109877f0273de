"""How answers ended, and whether long ones are lost more often."""

from __future__ import annotations

from layercut.report.depth import depth_section
from layercut.report.elements import Block, Section
from layercut.report.html.prose import blocks
from layercut.report.html.source import Source
from layercut.report.markdown import outcome_lines


def endings(source: Source) -> Section | None:
    """None without a study."""
    if source.study is None:
        return None
    rows = source.study.rows
    found: list[Block] = list(
        blocks(outcome_lines(rows)[2:], name="outcomes", caption="Number of answers by how they ended")
    )
    long = depth_section(rows)
    if long:
        found += blocks(long, name="long-answers", caption="Are long answers lost more often?")
    return Section(
        name="endings",
        title="How the answers ended",
        lead="Wrong, missing, or cut short by the length limit; and whether long answers suffer more than short ones.",
        blocks=tuple(found),
    )
