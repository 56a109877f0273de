"""Tables of comparisons as they are printed: they fit, a --limit shows, and each task counts once in the mean."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, Group

from layercut.evidence.comparison import compare_runs
from layercut.evidence.means import overall_mean
from layercut.report.comparison import comparison_tables, two_runs_table
from tests.unit.report.test_advice import row


def printed(*renderables, width: int) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(Group(*renderables))
    return console.file.getvalue()


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if any(word in line for word in ("rank", "short", "chain"))]


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


def test_each_task_counts_once_in_the_mean() -> None:
    rows = [
        row("cut", 3, "a", 0.8, readout="rank"),
        row("cut", 3, "a", 0.2, readout="chain"),  # the ranked one came first
        row("cut", 3, "c", 0.2, readout="chain"),
        replace(row("cut", 3, "e", 0.5, readout="rank"), is_headline=False),
        replace(row("cut", 3, "f", 0.5, readout="gold"), is_share=False),
    ]
    mean = overall_mean(rows)
    assert mean is not None and mean.tasks == ("a", "c")
    assert mean.retention_above_chance is not None and abs(mean.retention_above_chance.value - 0.5) < 0.01
    (line,) = [line for line in printed(*two_runs_table(rows), width=160).splitlines() if "mean of" in line]
    assert line.startswith("mean of 2 tasks: A 70 %, B 40 %, B - A -30 [") and line.endswith("(n 800)")
    assert overall_mean(rows[:2]) is None
