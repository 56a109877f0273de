"""Tables for the terminal. Each adapts to the width: with intervals on every number, or on the main ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layercut.evidence.comparison import OUTCOMES, SELECTED_ON, ComparedRun, ComparisonRow
from layercut.evidence.intervals import Estimate
from layercut.report import words
from layercut.report.advice_text import argument, bounds, how_made, joined, page
from layercut.report.render import bare_table
from layercut.surgery.plan import origin_of
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from layercut.evidence.comparison import Finding
    from layercut.report.advice import Advice
    from layercut.runs.directory import RunSummary


class Layout(NamedTuple):
    """What a comparison table shows; the narrower it must be, the less."""

    n: bool = False
    score_intervals: bool = False
    retention: bool = False
    test: bool = False
    """Items lost and gained, and the adjusted p-value."""
    task_on_its_own_line: bool = False


_LAYOUTS = (
    Layout(n=True, score_intervals=True, retention=True, test=True),
    Layout(n=True, score_intervals=True, retention=True),
    Layout(score_intervals=True, retention=True),
    Layout(score_intervals=True),
    Layout(retention=True),
    Layout(),
    Layout(task_on_its_own_line=True),
)
_STYLES: dict[Finding, str] = {
    "kept": "green",
    "better": "green",
    "gained": "green",
    "damaged": "yellow",
    "lost": "red",
    "unclear": "dim",
    "at chance": "dim",
}


def comparison_tables(rows: Sequence[ComparisonRow]) -> list[RenderableType]:
    """One table per cut run and a legend, to be printed one after the other. Nothing for no rows."""
    if not rows:
        return []
    names = dict.fromkeys(row.cut.name for row in rows)
    blocks: list[RenderableType] = [ComparisonTable([row for row in rows if row.cut.name == name]) for name in names]
    return [*blocks, legend(rows)]


class ComparisonTable:
    """Uncut against one pruned model, one line per task, readout and metric."""

    def __init__(self, rows: Sequence[ComparisonRow]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first = self.rows[0]
        scope = [words.removal(first.cut), words.size(first.uncut, first.cut)]
        scope.append(words.items([row.n for row in self.rows], [row.limit for row in self.rows]))
        yield Text()
        yield Text.assemble((first.cut.name, "bold"), " · ", " · ".join(fact for fact in scope if fact))
        yield _widest_that_fits([self.table(layout) for layout in _LAYOUTS], console, options)
        for note in dict.fromkeys(f"{row.task} ({row.readout}): {row.note}" for row in self.rows if row.note):
            yield Text(f"note: {note}", style="yellow")

    def table(self, layout: Layout) -> Table:
        """The bare table."""
        table = bare_table()
        if not layout.task_on_its_own_line:
            table.add_column("task")
        table.add_column("readout")
        if layout.n:
            table.add_column("n", justify="right")
        table.add_column("chance", justify="right")
        for name in ("uncut", "cut"):
            table.add_column(name, justify="left" if layout.score_intervals else "right")
        table.add_column("difference")
        if layout.retention:
            table.add_column("retention")
        table.add_column("above chance")
        if layout.test:
            table.add_column("-/+", justify="right")
            table.add_column("p", justify="right")
        table.add_column("finding")
        task = ""
        for row in self.rows:
            if layout.task_on_its_own_line and row.task != task:
                table.add_row(row.task)
            table.add_row(*self._cells(row, layout, task), style=None if row.is_headline else "dim")
            task = row.task
        return table

    def _cells(self, row: ComparisonRow, layout: Layout, previous_task: str) -> list[RenderableType]:
        values, share = row.values, row.is_share
        readout = words.readout_name(row, self.rows)
        name = [f"  {readout}"] if layout.task_on_its_own_line else [row.task * (row.task != previous_task), readout]
        return [
            *name,
            *([f"{row.n:,}"] if layout.n else []),
            "-" if row.chance is None else number(row.chance, share=share),
            *(
                with_interval(score, share=share) if layout.score_intervals else number(score.value, share=share)
                for score in (values.uncut, values.cut)
            ),
            with_interval(values.difference, share=share, sign=True),
            *([_kept(values.retention)] if layout.retention else []),
            _kept(values.retention_above_chance),
            *([words.swapped(row), p_value(row.p_value)] if layout.test else []),
            Text(row.finding, style=_STYLES[row.finding]),
        ]


def legend(rows: Sequence[ComparisonRow]) -> RenderableType:
    """What the numbers and findings mean; only the findings that occur are explained."""
    found = [name for name in words.FINDINGS if any(row.finding == name for row in rows)]
    lines = [*words.how_made(rows), *(f"{name}: {words.FINDINGS[name]}." for name in found)]
    return Padding(Group(*(Text(line, style="dim") for line in lines)), (1, 0, 0, 0))


def metrics_table(metrics: Mapping[str, Any]) -> RenderableType:
    """The scores of one run and how its answers ended.

    Args:
        metrics: what a run's metrics.json holds; ``plan`` may be missing.
    """
    return MetricsTable(metrics)


class MetricsTable:
    """The scores of one run, one line per task, readout and metric."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.rows: Sequence[Mapping[str, Any]] = metrics["rows"]
        self.plan: Mapping[str, Any] = metrics.get("plan") or {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        scope = []
        if self.plan:
            removed, origin = tuple(self.plan.get("removed", ())), origin_of(self.plan)
            scope.append(
                words.removal(
                    ComparedRun(num_layers=self.plan.get("num_layers"), removed=removed, origin=origin, name="")
                )
            )
        if self.rows:
            scope.append(words.items([row["n"] for row in self.rows], [row["limit"] for row in self.rows]))
        yield Text(" · ".join(scope))
        yield _widest_that_fits([self.table(with_n=True), self.table(with_n=False)], console, options)
        yield Text("Scores in % with 95 % intervals. right ... cut: answers; cut by the length limit.", style="dim")
        if any(row.get("selection_items") for row in self.rows):
            yield Text(f"* {SELECTED_ON}", style="yellow")

    def table(self, *, with_n: bool) -> Table:
        """The bare table."""
        table = bare_table()
        table.add_column("task")
        table.add_column("readout")
        if with_n:
            table.add_column("n", justify="right")
        table.add_column("chance", justify="right")
        table.add_column("score")
        for name in ("right", "wrong", "no answer", "cut"):
            table.add_column(name, justify="right")
        task, seen = "", set()
        for row in self.rows:
            key = (row["task"], row["readout"])
            several = sum((other["task"], other["readout"]) == key for other in self.rows) > 1
            share = all(0 <= x <= 1 for x in (row["value"], row["low"], row["high"]) if x is not None)
            estimate = Estimate(row["value"], row["low"], row["high"], row["n"], row["method"])
            table.add_row(
                (row["task"] if row["task"] != task else "") + ("*" if row.get("selection_items") else ""),
                f"{row['readout']}: {row['metric']}" if several else row["readout"],
                *([f"{row['n']:,}"] if with_n else []),
                "-" if row["chance"] is None else number(row["chance"], share=share),
                with_interval(estimate, share=share),
                *(str(row["outcomes"].get(name, 0)) if key not in seen else "" for name in OUTCOMES),
            )
            task = row["task"]
            seen.add(key)
        return table


class AdviceTable:
    """Every plan and readout that decided, with its bounds. A narrow terminal shows a plan's name on its own line."""

    def __init__(self, advice: Advice) -> None:
        self.advice = advice

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _widest_that_fits([self.table(by_plan=False), self.table(by_plan=True)], console, options)

    def table(self, *, by_plan: bool) -> Table:
        """The bare table."""
        table = bare_table()
        if not by_plan:
            table.add_column("plan")
            table.add_column("layers", justify="right")
        table.add_column("task", overflow="fold")
        table.add_column("readout", no_wrap=True)
        for name in ("n", "at least", "at most"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("items to settle", justify="right")
        for plan in self.advice.plans:
            name, depth = plan.arm.name, len(plan.arm.removed)
            if by_plan and plan.readouts:
                table.add_row(Text(f"{name} ({counted(depth, 'layer')})", style="bold"))
            for one in plan.readouts:
                first = [f"  {one.task}"] if by_plan else [name, str(depth), one.task]
                table.add_row(*first, one.readout, *bounds(one))
                name = name if by_plan else ""
        return table


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


def _widest_that_fits(tables: Sequence[Table], console: Console, options: ConsoleOptions) -> Table:
    """The first table that needs no wrapped cell; the last one where none fits."""
    for table in tables[:-1]:
        if Measurement.get(console, options.update(max_width=1000), table).maximum <= options.max_width:
            return table
    return tables[-1]


def _kept(estimate: Estimate | None) -> str:
    return "n/a" if estimate is None else with_interval(estimate)


def _age(since: timedelta) -> str:
    seconds = int(since.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def advice_on_terminal(advice: Advice) -> RenderableType:
    """The page of advice with a table that shows every plan's whole name, however narrow the terminal is."""
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.text import Text

    if not any(plan.readouts for plan in advice.plans):
        return Markdown(page(advice))
    return Group(Markdown(joined(argument(advice))), Text(), AdviceTable(advice), Text(), Markdown(how_made(advice)))
