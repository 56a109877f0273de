"""Tables of scores, advice and runs for the terminal; each adapts to its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from layercut.evidence.comparison import OUTCOMES, SELECTED_ON, ComparedRun, ComparisonRow
from layercut.evidence.intervals import Estimate
from layercut.report import words
from layercut.report.advice_text import argument, bounds_table, how_made, joined, page
from layercut.report.elements import Cell, Styled, Table, plain
from layercut.report.render import terminal
from layercut.report.study_tables import form_mean_lines
from layercut.surgery.plan import origin_of
from layercut.text.counting import of_test_set
from layercut.text.numbers import number, p_value, with_interval
from layercut.text.tables import bare_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.evidence.advice import Advice
    from layercut.runs.directory import RunSummary


def comparison_tables(rows: Sequence[ComparisonRow]) -> list[RenderableType]:
    """One table per cut run and a legend, to be printed one after the other. Nothing for no rows."""
    if not rows:
        return []
    names = dict.fromkeys(row.cut.name for row in rows)
    blocks: list[RenderableType] = [_comparison([row for row in rows if row.cut.name == name]) for name in names]
    return [*blocks, legend(rows)]


def _comparison(rows: Sequence[ComparisonRow]) -> RenderableType:
    """Uncut against one pruned model, one line per task, readout and metric."""
    first = rows[0]
    scope = [words.removal(first.cut), words.size(first.uncut, first.cut)]
    scope.append(words.items([row.n for row in rows], [row.limit for row in rows]))
    title = Text.assemble("\n", (first.cut.name, "bold"), " · ", " · ".join(fact for fact in scope if fact))
    notes = dict.fromkeys(f"{row.task} ({row.readout}): {row.note}" for row in rows if row.note)
    means = [Text(line) for line in form_mean_lines(rows)]
    asked = [Text(f"items: {sets}", style="dim")] if (sets := words.test_sets(rows)) else []
    return Group(
        title,
        terminal(_comparison_table(rows)),
        *means,
        *asked,
        *(Text(f"note: {note}", style="yellow") for note in notes),
    )


def _comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    lines: list[list[Cell]] = []
    task = ""
    for row in rows:
        values, share = row.values, row.is_share
        scores: list[str] = []
        for score in (values.uncut, values.cut):
            scores += with_interval(score, share=share).partition(" ")[::2]
        cells: list[Cell] = [
            row.task * (row.task != task),
            words.readout_name(row, rows),
            f"{row.n:,}",
            "-" if row.chance is None else number(row.chance, share=share),
            *scores,
            with_interval(values.difference, share=share, sign=True),
            "n/a" if values.retention is None else with_interval(values.retention),
            "n/a" if values.retention_above_chance is None else with_interval(values.retention_above_chance),
            words.swapped(row),
            p_value(row.p_value),
        ]
        if not row.is_headline:
            cells = [Styled(plain(cell), "faint") for cell in cells]
        lines.append([*cells, Styled(row.finding, words.LOOKS.get(row.finding, "faint"))])
        task = row.task
    head = ["task", "readout", "n", "chance", "uncut", "", "cut", "", "difference", "retention", "above chance"]
    n, intervals, retention, tests = {2}, {5, 7}, {9}, {11, 12}
    narrow = (tests, n | tests, n | retention | tests, n | intervals | tests, n | intervals | retention | tests)
    return Table(
        name="comparison",
        caption="",
        head=[*head, "-/+", "p", "finding"],
        rows=lines,
        numeric=frozenset({2, 3, 4, 6, 11, 12}),
        narrow=[frozenset(hidden) for hidden in narrow],
    )


def legend(rows: Sequence[ComparisonRow]) -> RenderableType:
    """What the numbers and findings mean; only the findings that occur are explained."""
    found = [name for name in words.FINDINGS if any(row.finding == name for row in rows)]
    lines = [*words.how_made(rows), *(f"{name}: {words.FINDINGS[name]}." for name in found)]
    return Padding(Group(*(Text(line, style="dim") for line in lines)), (1, 0, 0, 0))


def metrics_table(metrics: Mapping[str, Any]) -> RenderableType:
    """The scores of one run and how its answers ended, one line per task, readout and metric.

    Args:
        metrics: what a run's metrics.json holds; ``plan`` may be missing.
    """
    rows: Sequence[Mapping[str, Any]] = metrics["rows"]
    plan: Mapping[str, Any] = metrics.get("plan") or {}
    scope = []
    if plan:
        removed, origin = tuple(plan.get("removed", ())), origin_of(plan)
        scope.append(
            words.removal(ComparedRun(num_layers=plan.get("num_layers"), removed=removed, origin=origin, name=""))
        )
    if rows:
        scope.append(words.items([row["n"] for row in rows], [row["limit"] for row in rows]))
    parts: list[RenderableType] = [Text(" · ".join(scope)), terminal(scores_table(rows))]
    unit = words.scores_in(0 <= row["value"] <= 1 for row in rows)
    legend = f"{unit} with 95 % intervals. right ... cut: answers; cut by the length limit."
    parts.append(Text(legend, style="dim"))
    asked = [(row["task"], of_test_set(row["n"], row.get("test_set"), row.get("split", ""))) for row in rows]
    if sets := "; ".join(dict.fromkeys(f"{task}: {text}" for task, text in asked if text)):
        parts.append(Text(f"Items: {sets}.", style="dim"))
    if any(text.startswith("rest") for _, text in asked):
        parts.append(Text(words.REST, style="dim"))
    if any(row.get("selection_items") for row in rows):
        parts.append(Text(f"* {SELECTED_ON}", style="yellow"))
    return Group(*parts)


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each task, readout and metric of one run: ``rows`` of its metrics.json."""
    lines: list[list[Cell]] = []
    task, seen = "", set()
    for row in rows:
        key = (row["task"], row["readout"])
        several = sum((other["task"], other["readout"]) == key for other in rows) > 1
        share = all(0 <= x <= 1 for x in (row["value"], row["low"], row["high"], row["chance"]) if x is not None)
        estimate = Estimate(row["value"], row["low"], row["high"], row["n"], row["method"])
        lines.append(
            [
                (row["task"] if row["task"] != task else "") + ("*" if row.get("selection_items") else ""),
                f"{row['readout']}: {row['metric']}" if several else row["readout"],
                f"{row['n']:,}",
                "-" if row["chance"] is None else number(row["chance"], share=share),
                with_interval(estimate, share=share),
                *(str(row["outcomes"].get(name, 0)) if key not in seen else "" for name in OUTCOMES),
            ]
        )
        task = row["task"]
        seen.add(key)
    return Table(
        name="metrics",
        caption="",
        head=["task", "readout", "n", "chance", "score", "right", "wrong", "no answer", "cut"],
        rows=lines,
        numeric=frozenset({2, 3, 5, 6, 7, 8}),
        narrow=[frozenset({2})],
    )


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
    seconds = int(since.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def advice_on_terminal(advice: Advice) -> RenderableType:
    """The page of advice with a table that shows every plan's whole name, however narrow the terminal is."""
    from rich.markdown import Markdown

    if not any(plan.readouts for plan in advice.plans):
        return Markdown(page(advice))
    table = replace(bounds_table(advice), narrow=[frozenset({1}), frozenset({1, 8})])
    return Group(Markdown(joined(argument(advice))), Text(), terminal(table), Text(), Markdown(how_made(advice)))
