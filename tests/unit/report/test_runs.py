"""The scores of one run and the list of runs as they are printed."""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from layercut.report.runs import metrics_table, table_of_runs
from layercut.runs.directory import RunSummary


def printed(*renderables, width: int) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_one_run(quickstart, width):
    text = printed(metrics_table(quickstart[1][0].metrics()), width=width)
    assert "27-29" in text.splitlines()[0] and "(--limit 64)" in text.splitlines()[0]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    row = quickstart[1][0].metrics()["rows"][1]
    line = next(line for line in text.splitlines() if line.strip().startswith("short"))
    counts = [row["outcomes"][name] for name in ("right", "wrong", "no_answer", "cut")]
    assert [int(word) for word in line.split()[-4:]] == counts


def test_a_run_without_plan_or_rows():
    assert "score" in printed(metrics_table({"rows": []}), width=80)


def test_runs_are_listed():
    runs = [
        RunSummary(Path("runs/a"), "finished", datetime(2026, 1, 1, tzinfo=UTC), "layercut eval " + "a model " * 20),
        RunSummary(Path("runs/b"), "running", datetime(2026, 1, 3, 11, 30, tzinfo=UTC), ""),
        RunSummary(Path("runs/c"), "unfinished", None, "layercut sweep m"),
    ]
    text = printed(table_of_runs(runs, now=datetime(2026, 1, 3, 12, 0, tzinfo=UTC)), width=80)
    lines = [line.rstrip() for line in text.splitlines()][2:]
    assert "layercut eval a model" in lines[0]
    assert lines[0].endswith("…")
    assert lines[1] == "runs/b  running     30 min"
    assert lines[2] == "runs/c  unfinished       ?  layercut sweep m"
