"""One table, laid out in three ways: the same text in all of them, and nothing in a cell becomes markup."""

from __future__ import annotations

import re
from io import StringIO

from markdown_it import MarkdownIt
from rich.console import Console

from layercut.report.table import (
    Column,
    Styled,
    Table,
    markdown_lines,
    plain_cell,
    terminal_table,
    text_columns,
)
from layercut.report.writers import page_templates
from tests.support.html_page import read_page

CELLS = ["95 [88, 99]", "1.00 [n/a]", "<0.001", "a|b `c`", "[1](http://x.y)", "<b>x</b>", "*x*", "block_influence"]
TABLE = Table(
    name="t",
    caption="c",
    columns=text_columns("", "number", "look", numeric=["number"]),
    rows=[
        *([cell, str(place), cell] for place, cell in enumerate(CELLS)),
        ["strong", "8", Styled("12 [3, 20]", "strong", "*")],
        ["code", "9", Styled("layercut run a|b", "code")],
        ["lost", "10", Styled("lost", "wrong")],
    ],
)
SHOWN = [[plain_cell(cell) for _, cell in line] for line in TABLE.cells]


def cells(html: str) -> list[list[str]]:
    """As a browser reads them, the head first."""
    return read_page(html).tables["t"]


def test_markdown_shows_every_cell_as_it_is() -> None:
    lines = markdown_lines(TABLE)
    assert lines[:3] == ["| | number | look |", "|---|---:|---|", "| 95 [88, 99] | 0 | 95 [88, 99] |"]
    assert r"| strong | 8 | **12 [3, 20]**\* |" in lines
    html = MarkdownIt().enable("table").render("\n".join(markdown_lines(TABLE)))
    assert "href" not in html and "<b>" not in html and html.count("<strong>") == 1 and html.count("<code>") == 1
    assert cells(html.replace("<table>", '<table data-name="t">'))[1:] == SHOWN


def test_the_page_shows_the_same() -> None:
    page_templates().filters.setdefault("plot_json", str)
    macro = page_templates().get_template("blocks.html").module
    assert cells(str(macro.block(TABLE)))[1:] == SHOWN  # type: ignore[attr-defined]


def test_the_terminal_shows_the_same() -> None:
    console = Console(file=StringIO(), width=200)
    console.print(terminal_table(TABLE))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[2:]] == SHOWN


ROWS = [("copy", 0.25), ("copy", 0.5)]
COLUMNS = [
    Column("task", lambda row: row[0]),
    Column("score", lambda row: f"{row[1]:.0%}"),
    Column("n", lambda row: "64", narrow=1),
]


def test_each_surface_shows_its_columns() -> None:
    table = Table(name="t", caption="c", columns=COLUMNS, rows=ROWS)
    assert markdown_lines(table)[0] == "| task | score | n |" and markdown_lines(table)[2] == "| copy | 25% | 64 |"
    assert [[cell for _, cell in line] for line in table.cells] == [["copy", "25%", "64"], ["copy", "50%", "64"]]
    shown = []
    for width in (20, 11):
        console = Console(file=StringIO(), width=width)
        console.print(terminal_table(table))
        shown.append([line.split() for line in console.file.getvalue().splitlines()])  # type: ignore[attr-defined]
    wide, narrow = shown
    assert wide[0] == ["task", "score", "n"] and wide[2:] == [["copy", "25%", "64"], ["copy", "50%", "64"]]
    assert narrow[0] == ["task", "score"]
