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

from layercut.text import markup
from layercut.text.markup import code, escape, escaped, on_one_line, printable
from layercut.text.tables import bare_table

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
    mark: str = ""
    """Text after it without the look, such as a star."""
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


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    value: Callable[[Any], Any]
    """The cell of a row as shown; of a column that only the CSV has, any value."""
    _: KW_ONLY
    brief: Callable[[Any], Cell] | None = None
    """The cell of a row in the terminal, where that is shorter."""
    numeric: bool = False
    """Set to the right."""
    once: bool = False
    """The terminal leaves a cell empty that repeats the one above."""
    on: Surface = Surface.ALL
    narrow: Sequence[int] = ()
    """The layouts of a narrow terminal without this column; 1 is the mildest, and the first one that fits is taken."""
    raw: Mapping[str, Callable[[Any], Any]] | None = None
    """Columns that the CSV file has for this one: names, and values that are not rounded. None is an empty cell."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows; a row is whatever the columns take their values from."""

    name: str
    """Name of the CSV file, without its ending."""
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    faint: Callable[[Any], bool] | None = None
    """Rows whose plain cells are dim in the terminal."""
    matrix: bool = False
    """Cells are coloured by their look; only on the page."""
    download: Table | None = None
    """The table that the CSV file holds in place of this one."""
    kind: str = "table"

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
        cells: dict[tuple[int, str], Callable[[Any], Any]] = {}
        for place, column in enumerate(table.on(Surface.CSV)):
            cells |= {(place, name): value for name, value in (column.raw or {column.name: column.value}).items()}
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_csv_cell(name) for _, name in cells])
        writer.writerows([_csv_cell(value(row)) for value in cells.values()] for row in table.rows)
        return out.getvalue()

    @property
    def csv_uri(self) -> str:
        """The CSV file as a link that needs neither a server nor a script."""
        data = base64.b64encode(self.csv.encode()).decode("ascii")
        return f"data:text/csv;charset=utf-8;base64,{data}"


def raw_values(**paths: str) -> dict[str, Callable[[Any], Any]]:
    """Columns of a CSV file: names and the attributes that they hold, such as ``lost="values.lost"``."""
    return {name: attrgetter(path) for name, path in paths.items()}


def raw_estimates(**paths: str) -> dict[str, Callable[[Any], Any]]:
    """Columns of a CSV file for values and both ends of their intervals; empty cells where there is none."""

    def end(path: str, place: int) -> Callable[[Any], Any]:
        return lambda row: None if (found := attrgetter(path)(row)) is None else found[place]

    ends = ("", "_low", "_high")
    return {name + ends[place]: end(path, place) for name, path in paths.items() for place in range(3)}


def texts(*names: str, numeric: Sequence[str] = (), narrow: Mapping[str, Sequence[int]] | None = None) -> list[Column]:
    """Columns of rows that are cells already, in the order of the columns; see Column for the rest, by name."""
    layouts = narrow or {}
    return [
        Column(name, itemgetter(place), numeric=name in numeric, narrow=layouts.get(name, ()))
        for place, name in enumerate(names)
    ]


def units(text: str) -> str:
    """Keep numbers and their units, and both ends of an interval, on one line.

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


def _csv_cell(cell: Any) -> Any:
    """Spreadsheets run what begins like a formula, also behind what cannot be seen; text of models must not."""
    if isinstance(cell, Styled):
        cell = plain(cell)
    if not isinstance(cell, str):
        return "" if cell is None else cell
    text = printable(cell)  # a bare carriage return would begin a row of its own
    seen = (symbol for symbol in text if unicodedata.category(symbol)[0] not in "CMZ" and symbol not in _BLANK_LETTERS)
    runs = next(seen, "") in _FORMULA or text.startswith(("\t", "\n"))
    return f"'{text}" if text and runs and not _NUMBER.fullmatch(text) and text != "-" else text


def markdown_lines(table: Table) -> list[str]:
    """A table as lines of Markdown."""
    columns = table.on(Surface.MARKDOWN)
    rows = ([_markdown_cell(column.value(row)) for column in columns] for row in table.rows)
    numeric = {place for place, column in enumerate(columns) if column.numeric}
    return markup.table([_markdown_cell(column.name) for column in columns], rows, numeric)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    if cell.style == "code":
        return code(cell.text) + cell.mark
    text = escaped(cell.text)
    text = (f"**{text}**" if cell.style == "strong" else text) + escape(cell.mark)
    return ", ".join([text, *map(escaped, cell.below)])


def terminal(table: Table) -> RenderableType:
    """The widest layout that fits the terminal, without a shortened name.

    Where none fits, texts of the first column get lines of their own.
    """
    columns = table.on(Surface.TERMINAL)
    narrowest = max((layout for column in columns for layout in column.narrow), default=0)
    layouts = [_rich_table(table, columns, layout) for layout in range(narrowest + 1)]
    return _Fitting([*layouts, _rich_table(table, columns, narrowest, by_first=len(columns) > 1)])


class _Fitting:
    def __init__(self, tables: Sequence[RichTable]) -> None:
        self._tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        *wider, last = self._tables
        yield next((table for table in wider if _fits(table, console, options)), last)


def _fits(table: RichTable, console: Console, options: ConsoleOptions) -> bool:
    return Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width


class InParts:
    """A table for a terminal, in several below each other with as many columns as fit, each with the first one."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *left = self._table.on(Surface.TERMINAL)
        while left:
            taken = 1
            while taken < len(left) and _fits(
                _rich_table(self._table, [first, *left[: taken + 1]], 0), console, options
            ):
                taken += 1
            yield _rich_table(self._table, [first, *left[:taken]], 0)
            yield Text()
            left = left[taken:]


def _rich_table(table: Table, columns: Sequence[Column], layout: int, *, by_first: bool = False) -> RichTable:
    """One layout; where asked, with the first column's text above the rows that share it."""
    first, *others = columns
    columns = [column for column in (others if by_first else columns) if layout not in column.narrow]
    shown = bare_table()
    for column in columns:
        align: Literal["right", "left"] = "right" if column.numeric else "left"
        shown.add_column(column.name, justify=align, no_wrap=column.numeric, overflow="fold")
    above = ""
    before: list[Cell] = [""] * len(columns)
    for row in table.rows:
        if by_first and (name := plain((first.brief or first.value)(row))) not in ("", above):
            shown.add_row(Text(name, style="bold"))
            above = name
        cells = [(column.brief or column.value)(row) for column in columns]
        is_faint = table.faint is not None and table.faint(row)
        line = []
        for column, cell, old in zip(columns, cells, before, strict=True):
            style = _STYLES[cell.style] if isinstance(cell, Styled) else "dim" if is_faint else ""
            line.append(Text("" if column.once and cell == old else plain(cell), style=style))
        shown.add_row(*([Text("  ") + line[0], *line[1:]] if by_first else line))
        before = cells
    return shown
