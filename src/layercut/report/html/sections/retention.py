"""Retention by number of removed layers."""

from __future__ import annotations

from layercut.report.elements import Section
from layercut.report.figures.retention import retention as figure_of
from layercut.report.html.source import Source


def retention(source: Source) -> Section | None:
    """None without a score that has a retention."""
    figure = None if source.study is None else figure_of(source.study.cuts, source.study.rows)
    if figure is None:
        return None
    return Section(
        name="retention",
        title="Retention by number of removed layers",
        short="Retention",
        lead="Does a model that still ranks right answers also still write them?" if figure.columns > 1 else "",
        blocks=(figure,),
    )
