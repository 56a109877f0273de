"""A Table as Markdown and for the terminal; the page has a template for it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from layercut.report.elements import Cell, Part, Styled, Table, plain
from layercut.text import markup
from layercut.text.markup import code, escape, escaped
from layercut.text.tables import bare_table

_STYLES = {
    "strong": "bold", "right": "green", "wrong": "red", "weak": "yellow", "faint": "dim", "code": "", "plain": "",
}  # fmt: skip


def markdown(parts: Sequence[Part] | Table) -> list[str]:
    """Lines of Markdown, tables among them laid out."""
    if isinstance(parts, Table):
        return _markdown_table(parts)
    return [line for part in parts for line in ([part] if isinstance(part, str) else _markdown_table(part))]


def _markdown_table(table: Table) -> list[str]:
    head, *rows = ([_markdown_cell(cell) for cell in row] for row in (table.head, *table.rows))
    return markup.table(head, rows, table.numeric)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Styled) and cell.style == "code":
        return code(cell.text) + cell.mark
    text = escaped(cell if isinstance(cell, str) else cell.text)
    if isinstance(cell, str):
        return text
    return (f"**{text}**" if cell.style == "strong" else text) + escape(cell.mark)


def terminal(table: Table) -> RenderableType:
    """The same for a terminal: the widest layout that fits, without a shortened name."""
    wide = [_rich_table(table, hidden) for hidden in (frozenset(), *table.narrow)]
    narrowest = table.narrow[-1] if table.narrow else frozenset()
    return _Fitting([*wide, _rich_table(table, narrowest, by_first=len(table.head) > 1)])


class _Fitting:
    def __init__(self, tables: Sequence[RichTable]) -> None:
        self._tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        *wider, last = self._tables
        for table in wider:
            if Measurement.get(console, options.update(max_width=1000), table).maximum <= options.max_width:
                yield table
                return
        yield last


def _rich_table(table: Table, hidden: frozenset[int], *, by_first: bool = False) -> RichTable:
    """Without some columns; and, where asked, with the first column's text above the rows that share it."""
    places = [place for place in range(int(by_first), len(table.head)) if place not in hidden]
    shown = bare_table()
    for place in places:
        numeric = place in table.numeric
        shown.add_column(table.head[place], justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    above = ""
    for row in table.rows:
        if by_first and (name := plain(row[0])) not in ("", above):
            shown.add_row(Text(name, style="bold"))
            above = name
        cells = [_text(row[place]) for place in places]
        shown.add_row(*([Text("  ") + cells[0], *cells[1:]] if by_first else cells))
    return shown


def _text(cell: Cell) -> Text:
    return Text(plain(cell), style=_STYLES[cell.style] if isinstance(cell, Styled) else "")
