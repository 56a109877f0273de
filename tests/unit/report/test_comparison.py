"""Tables of comparisons as they are printed: they fit, a --limit shows, and tasks are taken together by form."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, Group

from layercut.evidence.comparison import compare_runs
from layercut.evidence.means import form_means
from layercut.report.comparison import comparison_tables, means_table
from tests.unit.report.test_advice import row


def printed(*renderables, width: int) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(Group(*renderables))
    return console.file.getvalue()


def table_lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith(("ranked ", "written "))]
    return [line for line in lines if any(word in line for word in ("rank", "short", "chain"))]


@pytest.mark.parametrize("width", [80, 160])
def test_a_study_fits_without_wrapped_cells(quickstart, width):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    lines = table_lines(text)
    assert len(lines) == len(rows)  # every row on a line of its own
    assert "…" not in text


def test_what_a_row_says(quickstart):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=160)
    (line,) = [line for line in table_lines(text) if "short" in line and "lost" in line]
    values = next(row.values for row in rows if row.finding == "lost")
    for expected in ("64", "8", f"{100 * values.uncut.value:.0f} [", f"{100 * values.cut.value:.0f} ["):
        assert expected in " ".join(line.split())
    for expected, times in (("27-29", 1), ("134.5M to 123.9M", 2), ("(--limit 64)", 2), ("18 comparisons", 1)):
        assert text.count(expected) == times
    assert "10,000 resamples, seed 0" in text
    assert "n/a" in next(line for line in table_lines(text) if "at chance" in line)


def test_extremes_are_printed(extreme):
    text = printed(*comparison_tables(compare_runs(*extreme)), width=120)
    assert all(expected in text for expected in ("1 to 1,000", "0.0 [-61.7, +62.0]", "-3.4", "n/a"))
    assert not any(wrong in text.replace("findings", "") for wrong in ("--limit", "nan", "inf"))


def test_each_task_counts_once_in_its_form() -> None:
    ranked = [row("cut", 3, task, 0.8, readout="rank") for task in ("a", "b")]
    written = [row("cut", 3, task, 0.2, readout="chain") for task in ("a", "c")]
    others = [
        row("cut", 3, "a", 0.5, readout="short"),  # the chain came first
        replace(row("cut", 3, "e", 0.5, readout="rank"), is_headline=False),
        replace(row("cut", 3, "f", 0.5, readout="gold"), is_share=False),
        row("deeper", 5, "a", 0.5, readout="rank"),  # alone
    ]
    rows = [*ranked, *written, *others]
    found = {(one.run, one.form): one.mean for one in form_means(rows)}
    assert set(found) == {("cut", "ranked"), ("cut", "written")}
    assert found["cut", "ranked"].tasks == ("a", "b") and found["cut", "written"].tasks == ("a", "c")
    kept = found["cut", "written"].retention_above_chance
    assert kept is not None and abs(kept.value - 0.2) < 0.01 and kept.n == 800
    (table,) = means_table(rows, digits=0)
    assert [[cell for _, cell in line[:6]] for line in table.page] == [
        ["cut", "ranked", "2", "800", "70", "58"],
        ["cut", "written", "2", "800", "70", "22"],
    ]
    assert [[str(cell).split(" [")[0] for _, cell in line[6:]] for line in table.page] == [
        ["-12", "83", "80"],
        ["-48", "31", "20"],
    ]
    assert means_table(ranked[:1]) == []
