"""How answers ended, and whether long ones are lost more often."""

from __future__ import annotations

from layercut.report.depth import depth_section
from layercut.report.elements import Block, Section
from layercut.report.html.prose import blocks
from layercut.report.html.source import Source
from layercut.report.markdown import outcome_table


def endings(source: Source) -> Section | None:
    """None without a study."""
    if source.study is None:
        return None
    rows = source.study.rows
    found: list[Block] = [outcome_table(rows), *blocks(depth_section(rows))]
    return Section(
        name="endings",
        title="How the answers ended",
        lead="Wrong, missing, or cut short by the length limit; and whether long answers suffer more than short ones.",
        blocks=tuple(found),
    )
