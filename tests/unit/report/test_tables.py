"""Tables as they are printed: they fit, they say what they rest on, and a --limit shows."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from layercut.evidence.comparison import compare_runs
from layercut.report.comparison import comparison_tables
from layercut.report.runs import metrics_table, runs_table
from layercut.runs.directory import RunSummary


def printed(*renderables, width: int) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def table_lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("mean of ")]
    return [line for line in lines if any(word in line for word in ("rank", "short", "chain"))]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_study_fits_without_wrapped_cells(quickstart, width):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    lines = table_lines(text)
    assert len([line for line in lines if "[" in line]) == len(rows)  # every row on a line of its own
    assert "…" not in text


def test_what_a_row_says(quickstart):
    rows = compare_runs(*quickstart)
    text = printed(*comparison_tables(rows), width=160)
    (line,) = [line for line in table_lines(text) if line.strip().startswith("short") and "lost" in line]
    values = next(row.values for row in rows if row.finding == "lost")
    for expected in ("64", "8", f"{100 * values.uncut.value:.0f} [", f"{100 * values.cut.value:.0f} ["):
        assert expected in " ".join(line.split())
    assert text.count("reverse-3 · 3 of 30 decoder layers removed (10.0%): 27-29 · 134.5M to 123.9M parameters") == 1
    assert text.count("(--limit 64)") == 2
    assert "10,000 resamples, seed 0" in text
    assert "18 comparisons" in text
    assert "n/a" in next(line for line in table_lines(text) if "at chance" in line)


def test_retention_gives_way_before_the_finding_does(quickstart):
    rows = compare_runs(*quickstart)
    wide, narrow = (printed(*comparison_tables(rows), width=width) for width in (160, 80))
    assert "retention  " in wide.splitlines()[2]
    for text in (wide, narrow):
        assert "above chance" in text
        assert "finding" in text
    assert "retention  " not in narrow.splitlines()[2]


def test_extremes_are_printed(extreme):
    text = printed(*comparison_tables(compare_runs(*extreme)), width=120)
    assert "1 to 1,000 items per task" in text
    assert "--limit" not in text
    for expected in ("0 [-62, +62]", "-3.4", "n/a"):
        assert expected in text
    assert "nan" not in text
    assert "inf" not in text.replace("findings", "")


def test_nothing_to_compare_prints_nothing():
    assert comparison_tables([]) == []


def test_pairing_notes_are_printed(quickstart):
    from dataclasses import replace

    rows = [replace(row, note="20 items in common (a has 30, b has 20)") for row in compare_runs(*quickstart)[:1]]
    assert "note: arithmetic (rank): 20 items in common" in printed(*comparison_tables(rows), width=120)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_one_run(quickstart, width):
    text = printed(metrics_table(quickstart[1][0].metrics()), width=width)
    assert text.startswith("3 of 30 decoder layers removed (10.0%): 27-29 · 64 items per task (--limit 64)")
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    row = quickstart[1][0].metrics()["rows"][1]
    line = next(line for line in text.splitlines() if line.strip().startswith("short"))
    counts = [row["outcomes"][name] for name in ("right", "wrong", "no_answer", "cut")]
    assert [int(word) for word in line.split()[-4:]] == counts


def test_a_run_without_plan_or_rows():
    assert "score" in printed(metrics_table({"rows": []}), width=80)


def test_runs_are_listed():
    runs = [
        RunSummary(Path("runs/a"), "finished", datetime(2026, 1, 1, tzinfo=UTC), "uncut, " + "copy short 0.5, " * 20),
        RunSummary(Path("runs/b"), "running", datetime(2026, 1, 3, 11, 30, tzinfo=UTC), ""),
        RunSummary(Path("runs/c"), "unfinished", None, "2 answers so far"),
    ]
    text = printed(runs_table(runs, now=datetime(2026, 1, 3, 12, 0, tzinfo=UTC)), width=80)
    lines = [line.rstrip() for line in text.splitlines()][2:]
    assert lines[0].startswith("runs/a  finished       2 d  uncut, copy short 0.5, copy")
    assert lines[0].endswith("…")
    assert lines[1] == "runs/b  running     30 min"
    assert lines[2] == "runs/c  unfinished       ?  2 answers so far"
