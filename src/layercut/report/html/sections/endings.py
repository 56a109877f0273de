"""How answers ended, and whether long ones are lost more often."""

from __future__ import annotations

from layercut.report.depth import depth_section
from layercut.report.elements import Block, Details, Section
from layercut.report.html.prose import blocks
from layercut.report.html.source import Source
from layercut.report.markdown import outcome_table


def endings(source: Source) -> Section | None:
    """None without a study."""
    if source.study is None:
        return None
    rows = source.study.rows
    found: list[Block] = [Details(summary="Number of answers by how they ended", blocks=(outcome_table(rows),))]
    if depth := blocks(depth_section(rows)):
        found.append(Details(summary="Are long answers lost more often?", blocks=depth))
    return Section(
        name="endings",
        title="How the answers ended",
        short="Endings",
        lead="Wrong, missing, or cut short by the length limit; and whether long answers suffer more than short ones.",
        blocks=tuple(found),
    )
