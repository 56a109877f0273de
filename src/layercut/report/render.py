"""A Table as Markdown and for the terminal; the page has a template for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from layercut.report.elements import Cell, Part, Styled, Table, plain
from layercut.text.markup import code, escape

_INTERVAL = re.compile(r"\\\[([-+\d., ]+|n/a)\\\](?![\[(])|\\(?=<[\d.])")
"""Escapes that no Markdown needs: brackets around numbers, and a sign before a number."""
_STYLES = {
    "strong": "bold", "right": "green", "wrong": "red", "weak": "yellow", "faint": "dim", "code": "", "plain": "",
}  # fmt: skip


def markdown(parts: Sequence[Part] | Table) -> list[str]:
    """Lines of Markdown, tables among them laid out."""
    if isinstance(parts, Table):
        return _markdown_table(parts)
    return [line for part in parts for line in ([part] if isinstance(part, str) else _markdown_table(part))]


def _markdown_table(table: Table) -> list[str]:
    rule = "".join("---:|" if place in table.numeric else "---|" for place in range(len(table.head)))
    rows = [[_markdown_cell(cell) for cell in row] for row in (table.head, *table.rows)]
    head, *body = ("| " + " | ".join(cells) + " |" for cells in rows)
    return [head.replace("|  |", "| |"), f"|{rule}", *body]


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Styled) and cell.style == "code":
        return code(cell.text) + cell.mark
    text = _INTERVAL.sub(
        lambda found: f"[{found[1]}]" if found[1] else "", escape(cell if isinstance(cell, str) else cell.text)
    )
    if isinstance(cell, str):
        return text
    return (f"**{text}**" if cell.style == "strong" else text) + escape(cell.mark)


def terminal(table: Table) -> RichTable:
    """The same for a terminal."""
    shown = bare_table()
    for place, name in enumerate(table.head):
        shown.add_column(name, justify="right" if place in table.numeric else "left")
    for row in table.rows:
        shown.add_row(
            *(Text(plain(cell), style=_STYLES[cell.style] if isinstance(cell, Styled) else "") for cell in row)
        )
    return shown


def bare_table() -> RichTable:
    """A table with a line under its head and no other: the look of all tables in the terminal."""
    return RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
