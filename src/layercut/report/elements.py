"""Blocks of a report: sections with text, tables, figures and examples, the same for page, Markdown and terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from operator import itemgetter
from typing import Any, Literal

from markupsafe import Markup
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from layercut.text import code_span, escape_inline, escaped_markdown, make_bare_table, markdown_table, on_one_line


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


_STYLES = {
    "strong": "bold", "right": "green", "wrong": "red", "weak": "yellow", "faint": "dim", "code": "", "plain": "",
}  # fmt: skip


@dataclass(frozen=True)
class Styled:
    """A table cell with a look."""

    text: str
    style: Literal["strong", "code", "right", "wrong", "weak", "faint", "plain"]
    mark: str = ""  # text after it without the look, such as a star
    below: Sequence[str] = ()  # further lines in the cell, in small letters

    def __html__(self) -> str:
        tag = self.style if self.style in ("strong", "code") else "span"
        look = Markup(' class="{}"').format(self.style) if tag == "span" else ""
        text = on_one_line(self.text) if self.style == "code" else self.text
        lines = (Markup(" <small>{}</small>").format(line) for line in self.below)
        return Markup("<{0}{1}>{2}</{0}>{3}").format(tag, look, text, self.mark) + Markup("").join(lines)


Cell = str | Styled


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    value: Callable[[Any], Any]  # the cell of a row
    _: KW_ONLY
    numeric: bool = False  # set to the right
    narrow: int = 0
    """Place in which a narrow terminal leaves it out, from 1; 0 where it always stays."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows; a row is whatever the columns take their values from."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    matrix: bool = False  # cells are coloured by their look; only on the page

    @property
    def cells(self) -> list[list[tuple[Column, Cell]]]:
        """The cells with their columns, line by line."""
        return [[(column, column.value(row)) for column in self.columns] for row in self.rows]


def text_columns(*names: str, numeric: Sequence[str] = (), narrow: Mapping[str, int] | None = None) -> list[Column]:
    """Columns of rows that are cells already, in the order of the columns; see Column for the rest, by name."""
    return [
        Column(name, itemgetter(place), numeric=name in numeric, narrow=(narrow or {}).get(name, 0))
        for place, name in enumerate(names)
    ]


def plain_cell(cell: Cell) -> str:
    """The text of a cell without its look."""
    if isinstance(cell, str):
        return cell
    return " ".join([(on_one_line(cell.text) if cell.style == "code" else cell.text) + cell.mark, *cell.below])


def markdown_lines(table: Table) -> list[str]:
    """A table as lines of Markdown."""
    rows = ([_markdown_cell(cell) for _, cell in line] for line in table.cells)
    numeric = {place for place, column in enumerate(table.columns) if column.numeric}
    return markdown_table([escaped_markdown(column.name) for column in table.columns], rows, numeric)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped_markdown(cell)
    if cell.style == "code":
        return code_span(cell.text) + cell.mark
    text = f"**{escaped_markdown(cell.text)}**" if cell.style == "strong" else escaped_markdown(cell.text)
    return ", ".join([text + escape_inline(cell.mark), *map(escaped_markdown, cell.below)])


@dataclass(frozen=True)
class _Fitting:
    """A table with as many columns as fit into the terminal."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = self.table.columns
        for level in range(1 + max(column.narrow for column in columns)):
            shown = _rich_table(self.table, [column for column in columns if not 0 < column.narrow <= level])
            if Measurement.get(console, options.update(max_width=10_000), shown).maximum <= options.max_width:
                break
        yield shown


def terminal_table(table: Table) -> RenderableType:
    """A table with as many columns as fit into the terminal; what is still too wide is folded."""
    return _Fitting(table)


def _rich_table(table: Table, columns: Sequence[Column]) -> RichTable:
    shown = make_bare_table()
    for place, column in enumerate(columns):
        align: Literal["right", "left"] = "right" if column.numeric else "left"
        shown.add_column(column.name, justify=align, no_wrap=column.numeric or place == 0, overflow="fold")
    for row in table.rows:
        cells = [column.value(row) for column in columns]
        shown.add_row(
            *(Text(plain_cell(cell), style=_STYLES[cell.style] if isinstance(cell, Styled) else "") for cell in cells)
        )
    return shown


Block = str | Table | Figure | Lead | Facts | Html | Details
"""A text is Markdown without headings and tables."""
