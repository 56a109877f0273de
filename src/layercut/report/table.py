"""Tables of reports: a list of columns and a list of rows, laid out for the terminal, Markdown, the page and CSV."""

from __future__ import annotations

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Flag, auto
from operator import attrgetter, itemgetter
from typing import Any, Literal

from markupsafe import Markup
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from layercut.text import code_span, escape_inline, escaped_markdown, make_bare_table, on_one_line, printable_text
from layercut.text import markdown_table as markdown_table

_TOGETHER = re.compile(
    r"(?<=\d) (?=%|\[|points?\b|of \d|decoder layers?\b|layers?\b|items?\b|tokens?\b|plans?\b|[kMG]i?B\b|ms\b|s\b|h\b)"
    r"|(?<=[\d%],) (?=[-+]?\d+(?:\.\d+)?\])|(?<=%) (?=\[)|(?<=\b[px]) (?=[<\d])|(?<=\bHolm) (?=[<\d])|(?<=\bn) (?=\d)"
)
"""Spaces inside numbers with units, intervals and the like, where no line may end."""
_STYLES = {
    "strong": "bold", "right": "green", "wrong": "red", "weak": "yellow", "faint": "dim", "code": "", "plain": "",
}  # fmt: skip
_FORMULA = "-+=@＝＋－＠"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Surface(Flag):
    """A place that shows a column."""

    TERMINAL = auto()
    MARKDOWN = auto()
    PAGE = auto()
    CSV = auto()
    REPORTS = MARKDOWN | PAGE
    SHOWN = TERMINAL | REPORTS
    ALL = SHOWN | CSV


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
        lines = (Markup(" <small>{}</small>").format(join_number_units(line)) for line in self.below)
        return Markup("<{0}{1}>{2}</{0}>{3}").format(tag, look, text, self.mark) + Markup("").join(lines)


Cell = str | Styled
Values = dict[str, Callable[[Any], Any]]
"""Names and functions of a row."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    value: Callable[[Any], Any]  # the cell of a row as shown; of a column that only the CSV has, any value
    _: KW_ONLY
    brief: Callable[[Any], Cell] | None = None  # the cell of a row in the terminal, where that is shorter
    numeric: bool = False  # set to the right
    once: bool = False  # the terminal leaves a cell empty that repeats the one above
    on: Surface = Surface.ALL
    narrow: Sequence[int] = ()
    """The layouts of a narrow terminal without this column; 1 is the mildest, and the first one that fits is taken."""
    raw: Values | None = None
    """Columns that the CSV file has for this one: values that are not rounded. None is an empty cell."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows; a row is whatever the columns take their values from."""

    name: str  # name of the CSV file, without its ending
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    faint: Callable[[Any], bool] | None = None  # rows whose plain cells are dim in the terminal
    matrix: bool = False  # cells are coloured by their look; only on the page
    download: Table | None = None  # the table that the CSV file holds in place of this one

    def on(self, surface: Surface) -> list[Column]:
        """The columns that a surface shows."""
        return [column for column in self.columns if surface in column.on]

    @property
    def page(self) -> list[list[tuple[Column, Cell]]]:
        """The cells of the page with their columns, line by line."""
        return [[(column, column.value(row)) for column in self.on(Surface.PAGE)] for row in self.rows]

    @property
    def csv(self) -> str:
        """The text of the CSV file."""
        table = self.download or self
        cells = [
            (name, value)
            for column in table.on(Surface.CSV)
            for name, value in (column.raw or {column.name: column.value}).items()
        ]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_csv_cell(name) for name, _ in cells])
        writer.writerows([_csv_cell(value(row)) for _, value in cells] for row in table.rows)
        return out.getvalue()

    @property
    def csv_uri(self) -> str:
        """The CSV file as a link that needs neither a server nor a script."""
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.csv.encode()).decode('ascii')}"


def raw_values(**paths: str) -> Values:
    """Columns of a CSV file: names and the attributes that they hold, such as ``lost="values.lost"``."""
    return {name: attrgetter(path) for name, path in paths.items()}


def raw_estimates(**paths: str) -> Values:
    """Columns of a CSV file for values and both ends of their intervals; empty cells where there is none."""

    def end(path: str, place: int) -> Callable[[Any], Any]:
        return lambda row: None if (estimate := attrgetter(path)(row)) is None else estimate[place]

    endings = ("", "_low", "_high")
    return {name + ending: end(path, place) for name, path in paths.items() for place, ending in enumerate(endings)}


def text_columns(
    *names: str, numeric: Sequence[str] = (), narrow: Mapping[str, Sequence[int]] | None = None
) -> list[Column]:
    """Columns of rows that are cells already, in the order of the columns; see Column for the rest, by name."""
    layouts = narrow or {}
    return [
        Column(name, itemgetter(place), numeric=name in numeric, narrow=layouts.get(name, ()))
        for place, name in enumerate(names)
    ]


def join_number_units(text: str) -> str:
    """Keep numbers and their units, and both ends of an interval, on one line.

    >>> join_number_units("88 % [74, 106] of 3 layers").count(chr(0xA0))
    4
    """
    joined = _TOGETHER.sub("\u00a0", text)
    return Markup(joined) if isinstance(text, Markup) else joined


def plain_cell(cell: Cell) -> str:
    """The text of a cell without its look."""
    if isinstance(cell, str):
        return cell
    return " ".join([(on_one_line(cell.text) if cell.style == "code" else cell.text) + cell.mark, *cell.below])


def _csv_cell(cell: Any) -> Any:
    """Spreadsheets run what begins like a formula, also behind what cannot be seen; text of models must not."""
    cell = plain_cell(cell) if isinstance(cell, Styled) else cell
    if not isinstance(cell, str):
        return "" if cell is None else cell
    text = printable_text(cell)  # a bare carriage return would begin a row of its own
    seen = (symbol for symbol in text if unicodedata.category(symbol)[0] not in "CMZ" and symbol not in _BLANK_LETTERS)
    runs = next(seen, "") in _FORMULA or text.startswith(("\t", "\n"))
    return f"'{text}" if text and runs and not _NUMBER.fullmatch(text) and text != "-" else text


def markdown_lines(table: Table) -> list[str]:
    """A table as lines of Markdown."""
    columns = table.on(Surface.MARKDOWN)
    rows = ([_markdown_cell(column.value(row)) for column in columns] for row in table.rows)
    numeric = {place for place, column in enumerate(columns) if column.numeric}
    return markdown_table([escaped_markdown(column.name) for column in columns], rows, numeric)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped_markdown(cell)
    if cell.style == "code":
        return code_span(cell.text) + cell.mark
    text = f"**{escaped_markdown(cell.text)}**" if cell.style == "strong" else escaped_markdown(cell.text)
    return ", ".join([text + escape_inline(cell.mark), *map(escaped_markdown, cell.below)])


@dataclass(frozen=True)
class _Fitting:
    """A table whose layout depends on the terminal's width."""

    table: Table
    in_parts: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(shown: RichTable) -> bool:
            return Measurement.get(console, options.update(max_width=10_000), shown).maximum <= options.max_width

        first, *others = self.table.on(Surface.TERMINAL)
        if not self.in_parts:
            narrowest = max((layout for column in (first, *others) for layout in column.narrow), default=0)
            layouts = [[each for each in (first, *others) if way not in each.narrow] for way in range(narrowest + 1)]
            wide_enough = filter(fits, (_rich_table(self.table, columns) for columns in layouts))
            kept = [first, *(column for column in others if narrowest not in column.narrow)]
            yield next(wide_enough, None) or _rich_table(self.table, kept, by_first=bool(others))
        while self.in_parts and others:
            parts = [_rich_table(self.table, [first, *others[: place + 1]]) for place in range(len(others))]
            count = next((place for place, part in enumerate(parts) if place and not fits(part)), len(parts))
            yield parts[count - 1]
            yield Text()
            others = others[count:]


def terminal_table(table: Table, *, in_parts: bool = False) -> RenderableType:
    """The widest layout that fits the terminal, without a shortened name.

    Where none fits, texts of the first column get lines of their own. ``in_parts``: several tables below each other
    instead, with as many columns as fit, each with the first column.
    """
    return _Fitting(table, in_parts)


def _rich_table(table: Table, columns: Sequence[Column], *, by_first: bool = False) -> RichTable:
    """One layout; ``by_first``: with the first column's text above the rows that share it."""
    lines = [[(column.brief or column.value)(row) for column in columns] for row in table.rows]
    names = [plain_cell(line[0]) for line in lines] if by_first else []
    if by_first:
        columns, lines = columns[1:], [line[1:] for line in lines]
    shown = make_bare_table()
    for column in columns:
        align: Literal["right", "left"] = "right" if column.numeric else "left"
        shown.add_column(column.name, justify=align, no_wrap=column.numeric, overflow="fold")
    above = ""
    for place, (row, line) in enumerate(zip(table.rows, lines, strict=True)):
        if by_first and names[place] not in ("", above):
            above = names[place]
            shown.add_row(Text(above, style="bold"))
        otherwise = "dim" if table.faint is not None and table.faint(row) else ""
        cells = [
            Text(
                "  " * (by_first and not number)
                + ("" if column.once and place and cell == lines[place - 1][number] else plain_cell(cell)),
                style=_STYLES[cell.style] if isinstance(cell, Styled) else otherwise,
            )
            for number, (column, cell) in enumerate(zip(columns, line, strict=True))
        ]
        shown.add_row(*cells)
    return shown
