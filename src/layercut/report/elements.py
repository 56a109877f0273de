"""Elements of a report: sections with prose, tables and figures."""

from __future__ import annotations

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from layercut.text.markup import on_one_line, printable

_TOGETHER = re.compile(
    r"(?<=\d) (?=%|\[|points?\b|of \d|decoder layers?\b|layers?\b|items?\b|tokens?\b|plans?\b|[kMG]i?B\b|ms\b|s\b|h\b)"
    r"|(?<=[\d%],) (?=[-+]?\d+(?:\.\d+)?\])|(?<=%) (?=\[)|(?<=\b[px]) (?=[<\d])|(?<=\bHolm) (?=[<\d])|(?<=\bn) (?=\d)"
)
"""Spaces inside numbers with units, intervals and the like, where no line may end."""


@dataclass(frozen=True)
class Styled:
    """A table cell with a look; layercut.report.render and the page's template lay it out."""

    text: str
    style: Literal["strong", "code", "right", "wrong", "weak", "faint", "plain"]
    mark: str = ""
    """What follows the text without the look, such as a star."""
    below: Sequence[str] = ()
    """Further lines in the cell, in small letters."""

    def __html__(self) -> str:
        if self.style == "strong":
            html = Markup("<strong>{}</strong>{}").format(self.text, self.mark)
        elif self.style == "code":
            html = Markup("<code>{}</code>{}").format(on_one_line(self.text), self.mark)
        else:
            html = Markup('<span class="{}">{}</span>{}').format(self.style, self.text, self.mark)
        return str(html + Markup("").join(Markup(" <small>{}</small>").format(units(line)) for line in self.below))


Cell = str | Styled


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Text that is HTML already; see layercut.report.html.prose."""

    html: Markup
    kind: str = "prose"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be downloaded as CSV."""

    name: str
    """Of the CSV file, without its ending."""
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """As they are shown: plain text, or text with a look."""
    numeric: frozenset[int] = frozenset()
    """Columns that are set to the right."""
    narrow: Sequence[frozenset[int]] = ()
    """Columns that a terminal leaves out where the table does not fit, the mildest choice first. Where none fits, the
    first column gets lines of its own."""
    matrix: bool = False
    """Whether cells are coloured by their look; only on the page."""
    raw: Sequence[Sequence[Any]] | None = None
    """What the CSV holds in place of the cells as shown, its head first: numbers that are not rounded."""
    kind: str = "table"

    @property
    def csv(self) -> str:
        """The text of the CSV file."""
        shown = [list(self.head), *([plain(cell) for cell in row] for row in self.rows)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for row in shown if self.raw is None else self.raw:
            writer.writerow([_csv_cell(cell) for cell in row])
        return out.getvalue()

    @property
    def csv_uri(self) -> str:
        """The same as a link that needs neither a server nor a script."""
        data = base64.b64encode(self.csv.encode()).decode("ascii")
        return f"data:text/csv;charset=utf-8;base64,{data}"


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
    """What is to be seen, for those who do not see it."""
    title: str = ""
    column: int = 0
    """Where panels stand side by side, the one it stands in; 0 for the next free one."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Plots that share a legend and a caption, with the table of all their numbers."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str
    table: Table | None = None
    """The page shows it folded below the plots; Markdown has tables of its own."""
    legend: Sequence[Key] = ()
    columns: int = 2
    """How many panels are side by side where the width allows."""
    kind: str = "figure"


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that are folded away until they are asked for."""

    summary: str
    blocks: Sequence[Block]
    kind: str = "details"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Blocks that stand side by side where the width allows; on a phone the last one comes first."""

    blocks: Sequence[Block]
    kind: str = "beside"


Block = Prose | Table | Figure | Details | Beside
Part = str | Table
"""What functions give that serve both Markdown and the page: a line of Markdown, or a table."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading."""

    name: str
    """Its anchor."""
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    lead: str = ""
    """What the section answers, in a sentence."""
    short: str = ""
    """Its title in the contents, in one or two words."""


def units(text: str) -> str:
    """The same text with numbers and their units, and both ends of an interval, kept on one line.

    >>> units("88 % [74, 106] of 3 layers").count(chr(0xA0))
    4
    """
    found = _TOGETHER.sub("\u00a0", text)
    return Markup(found) if isinstance(text, Markup) else found


def plain(cell: Cell) -> str:
    """The text of a cell without its look."""
    if isinstance(cell, str):
        return cell
    return " ".join([(on_one_line(cell.text) if cell.style == "code" else cell.text) + cell.mark, *cell.below])


def visible(text: str) -> str:
    """Text of a model as it can be shown: control characters as escapes."""
    return printable(text)


_FORMULA = "-+=@＝＋－＠"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _csv_cell(cell: Any) -> Any:
    """Spreadsheets run what begins like a formula, also behind what cannot be seen; text of models must not."""
    if not isinstance(cell, str):
        return cell
    text = printable(cell)  # a bare carriage return would begin a row of its own
    seen = (symbol for symbol in text if unicodedata.category(symbol)[0] not in "CMZ" and symbol not in _BLANK_LETTERS)
    runs = next(seen, "") in _FORMULA or text.startswith(("\t", "\n"))
    return f"'{text}" if text and runs and not _NUMBER.fullmatch(text) and text != "-" else text
