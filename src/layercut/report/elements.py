"""Blocks of a report: sections with text, tables, figures and examples, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from layercut.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a figure's legend: a CSS colour, such as ``var(--ranked)``, and an SVG dash array."""

    label: str
    colour: str
    dash: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of a figure."""

    spec: dict[str, Any]  # Vega-Lite
    label: str  # description for readers who do not see the plot
    title: str = ""
    column: int = 0  # number of its column where panels are side by side; 0 for the next free one


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Plots that share a legend and a caption, with the table of all their numbers, which the page folds."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str
    table: Table | None = None
    legend: Sequence[Key] = ()
    columns: int = 2  # number of panels side by side where the width allows


@dataclass(frozen=True)
class Lead:
    """What a report begins with, in Markdown; the page sets paragraphs of it large."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values, which are a line of Markdown each."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Html:
    """A part that only the page has."""

    html: Markup


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that the page folds away until they are asked for."""

    summary: str
    blocks: Sequence[Block]


Block = str | Table | Figure | Lead | Facts | Html | Details
"""A text is Markdown without headings and tables."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report with a heading."""

    name: str  # its anchor
    title: str
    blocks: Sequence[Block] = ()
    lead: str = ""  # the question that the section answers, in a sentence
    short: str = ""  # its title in the contents, in one or two words


def bullet_list(lines: Iterable[str]) -> str:
    """A list of lines of Markdown; empty for none."""
    return "\n".join(f"- {line}" for line in lines)
