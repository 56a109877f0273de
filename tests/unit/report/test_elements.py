import re

import pytest
from markdown_it import MarkdownIt

from layercut.report.elements import (
    Column,
    Styled,
    Table,
    markdown_lines,
    plain_cell,
    terminal_table,
    text_columns,
)
from layercut.report.words import finding_cell, kept_words, score_units, task_cell
from layercut.report.writers import page_templates
from layercut.runs.prune import Estimated, TaskKept
from tests.support.html_page import read_page
from tests.support.pages import printed


def kept(value: float | None) -> TaskKept:
    score = Estimated(value=0.5, low=0.4, high=0.6, n=64)
    share = None if value is None else Estimated(value=value, low=0.8, high=1.0, n=64)
    return TaskKept(task="sums", readout="short", uncut=score, cut=score, kept=share)


def test_cells_say_the_task_the_share_and_the_verdict():
    assert plain_cell(task_cell("sums", "short")) == "sums short answer"
    assert (kept_words(kept(0.9).kept), kept_words(kept(None).kept)) == ("90 [80, 100] %", "n/a")
    looks = {name: finding_cell(name).style for name in ("passed", "shown to fail", "undecided")}
    assert looks == {"passed": "right", "shown to fail": "wrong", "undecided": "plain"}


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([True, True], "Scores in %"),
        ([False], "Scores in the metric's own unit"),
        ([False, True], "Scores in %, and in the metric's own unit"),
    ],
)
def test_percent_is_said_of_shares_alone(shares, says):
    assert score_units(shares) == says


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


def test_markdown_the_page_and_the_terminal_show_every_cell_as_it_is():
    lines = markdown_lines(TABLE)
    assert lines[:3] == ["| | number | look |", "|---|---:|---|", "| 95 [88, 99] | 0 | 95 [88, 99] |"]
    assert r"| strong | 8 | **12 [3, 20]**\* |" in lines
    html = MarkdownIt().enable("table").render("\n".join(markdown_lines(TABLE)))
    assert "href" not in html and "<b>" not in html and html.count("<strong>") == 1 and html.count("<code>") == 1
    assert read_page(html.replace("<table>", '<table data-name="t">')).tables["t"][1:] == SHOWN
    page_templates().filters.setdefault("plot_json", str)
    macro = page_templates().get_template("blocks.html").module
    assert read_page(str(macro.block(TABLE))).tables["t"][1:] == SHOWN
    lines = printed(terminal_table(TABLE)).splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[2:]] == SHOWN


def test_each_surface_shows_its_columns():
    columns = [Column("task", lambda row: row[0]), Column("score", lambda row: f"{row[1]:.0%}")]
    columns.append(Column("n", lambda row: "64", narrow=1))
    table = Table(name="t", caption="c", columns=columns, rows=[("copy", 0.25), ("copy", 0.5)])
    assert markdown_lines(table)[0] == "| task | score | n |" and markdown_lines(table)[2] == "| copy | 25% | 64 |"
    assert [[cell for _, cell in line] for line in table.cells] == [["copy", "25%", "64"], ["copy", "50%", "64"]]
    texts = (printed(terminal_table(table), width=width) for width in (20, 11))
    wide, narrow = ([line.split() for line in text.splitlines()] for text in texts)
    assert wide[0] == ["task", "score", "n"] and wide[2:] == [["copy", "25%", "64"], ["copy", "50%", "64"]]
    assert narrow[0] == ["task", "score"]
