"""One table, laid out in three ways: the same text in all of them, and nothing in a cell becomes markup."""

from __future__ import annotations

import csv
import io
import re
from io import StringIO
from itertools import product

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from layercut.report.table import (
    Column,
    Styled,
    Surface,
    Table,
    _csv_cell,
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
SHOWN = [[plain_cell(cell) for _, cell in line] for line in TABLE.page]


def cells(html: str) -> list[list[str]]:
    """As a browser reads them, the head first."""
    link = '<a download="x" href="data:;base64,"></a>'
    return read_page(html + link).tables["x"]


def test_markdown_shows_every_cell_as_it_is() -> None:
    lines = markdown_lines(TABLE)
    assert lines[:3] == ["| | number | look |", "|---|---:|---|", "| 95 [88, 99] | 0 | 95 [88, 99] |"]
    assert r"| strong | 8 | **12 [3, 20]**\* |" in lines
    html = MarkdownIt().enable("table").render("\n".join(markdown_lines(TABLE)))
    assert "href" not in html and "<b>" not in html and html.count("<strong>") == 1 and html.count("<code>") == 1
    assert cells(html)[1:] == SHOWN


def test_the_page_and_its_csv_show_the_same() -> None:
    page_templates().filters.setdefault("plot_json", str)
    macro = page_templates().get_template("blocks.html").module
    assert cells(html := str(macro.block(TABLE)))[1:] == SHOWN  # type: ignore[attr-defined]
    assert read_page(html).csv["t.csv"][9:] == SHOWN[8:]


def test_the_terminal_shows_the_same() -> None:
    console = Console(file=StringIO(), width=200)
    console.print(terminal_table(TABLE))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[2:]] == SHOWN


ROWS = [("copy", 0.25), ("copy", 0.5)]
COLUMNS = [
    Column("task", lambda row: row[0], once=True),
    Column("score", lambda row: f"{row[1]:.0%}", brief=lambda row: f"{row[1]:.1f}", raw={"score": lambda row: row[1]}),
    Column("seed", lambda row: 0, on=Surface.CSV),
    Column("n", lambda row: "64", on=Surface.SHOWN, narrow=(1,)),
]


def test_each_surface_shows_its_columns() -> None:
    table = Table(name="t", caption="c", columns=COLUMNS, rows=ROWS)
    assert table.csv.splitlines() == ["task,score,seed", "copy,0.25,0", "copy,0.5,0"]
    assert markdown_lines(table)[0] == "| task | score | n |" and markdown_lines(table)[2] == "| copy | 25% | 64 |"
    assert [[cell for _, cell in line] for line in table.page] == [["copy", "25%", "64"], ["copy", "50%", "64"]]
    shown = []
    for width in (20, 11):
        console = Console(file=StringIO(), width=width)
        console.print(terminal_table(table))
        shown.append([line.split() for line in console.file.getvalue().splitlines()])  # type: ignore[attr-defined]
    wide, narrow = shown
    assert wide[0] == ["task", "score", "n"] and wide[2:] == [["copy", "0.2", "64"], ["0.5", "64"]]
    assert narrow[0] == ["task", "score"]


def test_a_table_can_hold_another_one_to_download() -> None:
    table = Table(name="t", caption="c", columns=COLUMNS, rows=ROWS)
    assert Table(name="t", caption="c", columns=COLUMNS[:1], rows=ROWS, download=table).csv == table.csv


BLANKS = ["", " ", "  ", "\t", " \t", "\n", "\xa0", "\ufeff"]
UNSEEN = ["\u200b", "\u202e", "\u00ad", "\u2060", "\u3164", "\u0301", "\u200b \u202e"]
RUN = ["cmd|' /C calc'!A0", "1+1", "5 [1, 2]", "HYPERLINK(A1)", "2-3", "1;2", "0x1"]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝"])
def test_no_cell_of_a_csv_begins_like_a_formula(sign: str) -> None:
    for blank, rest in product(BLANKS, RUN):
        assert csv_cells([f"{blank}{sign}{rest}"]) == [f"'{blank}{sign}{rest}"]
    for blank, rest in product(UNSEEN, RUN):
        cell = str(_csv_cell(f"{blank}{sign}{rest}"))
        assert cell.startswith("'") or "\\x202e" in cell.partition(sign)[0], "what turns direction is an escape"


def test_numbers_and_words_stay_as_they_are() -> None:
    for cell in ("-1", "+2", "-1.5e-3", "-.5", "3", "a-b", "-", "", " x", "1 - 2", "é=1"):
        assert csv_cells([cell]) == [cell]
    assert _csv_cell(-2.5) == -2.5 and _csv_cell("\u200bword") == "\u200bword"


def test_a_carriage_return_begins_no_row_of_its_own() -> None:
    assert csv_cells(["ok\r=1+1", "\x1b[2J"]) == ["ok\\x0d=1+1", "\\x1b[2J"]
    assert csv_cells(["\tx", "\nx"]) == ["'\tx", "'\nx"], "nor a blank that is read as one"


def csv_cells(cells: list[str]) -> list[str]:
    """A row of a table's CSV as a reader sees it."""
    table = Table(name="t", caption="", columns=text_columns(*map(str, range(1 + len(cells)))), rows=[["x", *cells]])
    return list(csv.reader(io.StringIO(table.csv, newline="")))[1][1:]
