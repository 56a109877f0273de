"""Blocks of a report: sections with text, tables, figures and examples, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from layercut.report.table import Surface, Table


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a figure's legend."""

    label: str
    colour: str
    """A CSS colour, such as ``var(--ranked)``."""
    dash: str = ""
    """SVG dash array."""
    hollow: bool = False
    """A point that is not filled."""
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of a figure."""

    spec: dict[str, Any]
    """Vega-Lite."""
    label: str
    """Description for readers who do not see the plot."""
    title: str = ""
    column: int = 0
    """Number of its column where panels are side by side; 0 for the next free one."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Plots that share a legend and a caption, with the table of all their numbers."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str
    table: Table | None = None
    """The page shows it folded below the plots."""
    legend: Sequence[Key] = ()
    columns: int = 2
    """Number of panels side by side where the width allows."""
    picture: str = ""
    """File of its PNG beside a report in Markdown; empty for none."""
    on: Surface = Surface.REPORTS
    kind: str = "figure"


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The sentences that a report begins with, in Markdown, each with what it is about, which may be empty."""

    lines: Sequence[tuple[str, str]]
    large: bool = False
    kind: str = "lead"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values; values are a line of Markdown each."""

    facts: Sequence[tuple[str, str]]
    rows: bool = False
    """The page sets each in a row of its own."""
    kind: str = "facts"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One answer to the item of an example, with both ends of its first difference from the original model's."""

    name: str
    text: str
    ended: str = ""
    difference: tuple[int, int] | None = None
    """None where it does not differ."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item with the answers of several models."""

    item: str
    question: str
    gold: str
    head: Sequence[str] = ()
    """Readouts of the table."""
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    """For each model, its answer under each readout and how that ended."""
    texts: Sequence[tuple[str, Sequence[Side]]] = ()
    """For each readout with texts, those of the models, the original one's first."""
    kind: str = "example"


@dataclass(frozen=True, kw_only=True)
class Html:
    """A part that only the page has."""

    html: Markup
    kind: str = "html"


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that the page folds away until they are asked for."""

    summary: str
    blocks: Sequence[Block]
    on: Surface = Surface.REPORTS
    kind: str = "details"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Blocks that are side by side where the width allows; on a phone the last one comes first."""

    blocks: Sequence[Block]
    kind: str = "beside"


Block = str | Table | Figure | Lead | Facts | Example | Html | Details | Beside
"""A text is Markdown without headings and tables."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report with a heading."""

    name: str
    """Its anchor."""
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    lead: str = ""
    """The question that the section answers, in a sentence."""
    short: str = ""
    """Its title in the contents, in one or two words."""
    on: Surface = Surface.REPORTS


def bullets(lines: Iterable[str]) -> str:
    """A list of lines of Markdown; empty for none."""
    return "\n".join(f"- {line}" for line in lines)
