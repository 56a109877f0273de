"""The scores of one run, and the list of run folders, for the terminal; tables adapt to its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from layercut.evidence.comparison import OUTCOMES, SELECTED_ON, ComparedRun
from layercut.evidence.intervals import Estimate
from layercut.report import words
from layercut.report.table import Table, terminal, texts
from layercut.surgery.plan import mlp_share, origin_of
from layercut.text.counting import of_test_set
from layercut.text.numbers import number, with_interval
from layercut.text.tables import bare_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.runs.directory import RunSummary


def metrics_table(metrics: Mapping[str, Any]) -> RenderableType:
    """The scores in a run's metrics.json and how its answers ended, one line per task, readout and metric."""
    rows: Sequence[Mapping[str, Any]] = metrics["rows"]
    plan: Mapping[str, Any] = metrics.get("plan") or {}
    scope = []
    if plan:
        removed, num_layers = tuple(plan.get("removed", ())), plan.get("num_layers")
        run = ComparedRun(name="", num_layers=num_layers, removed=removed, mlp=mlp_share(plan), origin=origin_of(plan))
        scope.append(words.removal(run))
    if rows:
        scope.append(words.items([row["n"] for row in rows], [row["limit"] for row in rows]))
    sets = [(row["task"], of_test_set(row["n"], row.get("test_set"), row.get("split", ""))) for row in rows]
    named = "; ".join(dict.fromkeys(f"{task}: {text}" for task, text in sets if text))
    notes = [
        (scores_legend(rows), "dim"),
        (f"Items: {named}." if named else "", "dim"),
        (words.REST if any(text.startswith("rest") for _, text in sets) else "", "dim"),
        (f"* {SELECTED_ON}" if any(row.get("selection_items") for row in rows) else "", "yellow"),
    ]
    shown = (Text(text, style=style) for text, style in notes if text)
    return Group(Text(" · ".join(scope)), terminal(scores_table(rows)), *shown)


def scores_legend(rows: Sequence[Mapping[str, Any]]) -> str:
    """Meaning of the numbers in ``scores_table``."""
    unit = words.scores_in(0 <= row["value"] <= 1 for row in rows)
    return f"{unit} with 95 % intervals. right ... cut: answers; cut by the length limit."


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each task, readout and metric of one run: ``rows`` of its metrics.json."""
    lines: list[list[str]] = []
    keys = [(row["task"], row["readout"]) for row in rows]
    for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
        is_new = place == 0 or rows[place - 1]["task"] != row["task"]
        share = all(0 <= row[name] <= 1 for name in ("value", "low", "high", "chance") if row[name] is not None)
        estimate = Estimate(row["value"], row["low"], row["high"], row["n"], row["method"])
        lines.append(
            [
                row["task"] * is_new + "*" * bool(row.get("selection_items")),
                row["readout"] + (f": {row['metric']}" if keys.count(key) > 1 else ""),
                f"{row['n']:,}",
                "-" if row["chance"] is None else number(row["chance"], share=share),
                with_interval(estimate, share=share),
                *("" if key in keys[:place] else str(row["outcomes"].get(name, 0)) for name in OUTCOMES),
            ]
        )
    ends = [name.replace("_", " ") for name in OUTCOMES]
    heads = ("task", "readout", "n", "chance", "score", *ends)
    columns = texts(*heads, numeric=("n", "chance", *ends), narrow={"n": [1]})
    return Table(name="metrics", caption="", columns=columns, rows=lines)


def runs_table(runs: Sequence[RunSummary], *, now: datetime | None = None) -> RenderableType:
    """Run folders with their state, age and headline."""
    now = now or datetime.now(UTC)
    table = bare_table()
    table.expand = True
    table.add_column("run", overflow="fold", min_width=min(40, max((len(str(run.path)) for run in runs), default=0)))
    table.add_column("state", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("headline", no_wrap=True, overflow="ellipsis", ratio=1)
    for run in runs:
        age = "?" if run.begun is None else _age(now - run.begun)
        style = {"finished": "green", "running": "cyan"}.get(run.status, "yellow")
        table.add_row(str(run.path), Text(run.status, style=style), age, run.headline)
    return table


def _age(since: timedelta) -> str:
    seconds = max(0, int(since.total_seconds()))
    size, unit = next((step for step in ((86_400, "d"), (3_600, "h"), (60, "min")) if seconds >= step[0]), (1, "s"))
    return f"{seconds // size} {unit}"
