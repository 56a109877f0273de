"""Report of a draft: the answer, forecast and measured speed-ups, and how it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report import charts
from layercut.report.elements import Block, Figure, Key, Lead, Panel, Section
from layercut.report.table import Column, Styled, Table
from layercut.runs.draft import DraftResult
from layercut.runs.prune import Estimated
from layercut.text import fenced_block, number_text, two_decimals

if TYPE_CHECKING:
    from layercut.report.source import Source

FORECAST, MEASURED = "forecast", "measured"


def draft_answer(source: Source) -> Section | None:
    """Make the section of the answer, with the forecast of every plan; None without a draft."""
    if (result := source.value) is None:
        return None
    legend = [
        f"Greedy answers, {result.serve}, {result.dtype}, times of {result.times}; 95 % intervals over answers, seed "
        f"{result.seed}. *A step*: time of a draft's step, of the original model's. *Same token*: the draft's "
        "likeliest token is the answer's. Accepted lengths follow exactly from those; seconds from measured steps. "
        "*By bytes*: where a step takes as long as reading its weights once, however many tokens it checks, as on a "
        "GPU with few requests at once; attention, prompts and all overhead are left out.",
    ]
    if result.tried:
        legend.append(f"{result.tried} plans were tried on selection items; the first is the fastest there.")
    blocks: list[Block] = [Lead(lines=[("", result.why)], large=True), _figure(result), *legend]
    return Section(name="answer", title="Is it faster with a draft?", short="Answer", blocks=blocks)


def draft_numbers(source: Source) -> Section | None:
    """Make the section of tasks and measurements; None without a draft."""
    if (result := source.value) is None:
        return None
    blocks: list[Block] = [*draft_tables(result)[1:]]
    if (measured := result.measured) is not None:
        blocks.append(
            f"{measured.speedup.n} answers written twice by turns: {_times(measured.speedup)} measured, "
            f"{_times(measured.forecast)} forecast. {measured.num_same} have the same tokens with and without the "
            f"draft; {measured.num_expected} took as many passes of the original model as forecast "
            f"({measured.rounds:,} in all, {measured.expected_rounds:,} forecast)."
        )
    checks = ", ".join(f"{place}: {check:.2f}" for place, check in enumerate(result.checks, start=1))
    blocks.append(
        f"A step of the original model that checks a number of tokens, in times of its step of one token: {checks}."
    )
    return Section(name="numbers", title="Tasks and measurements", short="Numbers", blocks=blocks)


def serving_section(source: Source) -> Section | None:
    """Make the section of the commands that serve it; None without any."""
    if source.value is None or not source.value.commands:
        return None
    commands = [f"{engine}:\n\n" + "\n".join(fenced_block(command)) for engine, command in source.value.commands]
    lead = "Relative paths are from this folder."
    return Section(name="serving", title="Serve it", short="Serve", lead=lead, blocks=commands)


def draft_tables(result: DraftResult) -> list[Table]:
    """Make the table of the drafts, and one of the tasks where there are several."""
    shared = [
        Column("tokens a round", lambda row: f"{row.per_round.value:.2f}", numeric=True),
        Column("forecast", lambda row: _times(row.speedup)),
    ]
    drafts = [
        Column("draft", lambda row: Styled(row.words, "strong" if row is result.chosen else "plain")),
        Column("reads", lambda row: f"{number_text(row.read)} %", numeric=True, narrow=(1,)),
        Column("a step", lambda row: f"{number_text(row.step)} %", numeric=True),
        Column("same token", lambda row: f"{number_text(row.agrees.value)} %", numeric=True),
        Column("window", lambda row: str(row.window), numeric=True),
        Column("accepted", lambda row: f"{number_text(row.accepted.value)} %", numeric=True, narrow=(1,)),
        *shared,
        Column("by bytes", lambda row: _times(row.bandwidth), narrow=(1,)),
    ]
    tasks = [
        Column("task", lambda row: f"{row.task} ({row.readout})"),
        Column("n", lambda row: str(row.n), numeric=True),
        Column("tokens", lambda row: f"{row.tokens:,}", numeric=True),
        *shared,
    ]
    caption = f"Drafts on {sum(task.n for task in result.tasks):,} answers to report items"
    tables = [Table(name="drafts", caption=caption, columns=drafts, rows=list(result.plans))]
    if len(result.tasks) > 1:
        caption = "The chosen draft by task"
        tables.append(Table(name="draft-tasks", caption=caption, columns=tasks, rows=list(result.tasks)))
    return tables


def _times(estimate: Estimated) -> str:
    """``x 1.31 [1.28, 1.35]``."""
    return f"x {two_decimals(estimate)}"


def _figure(result: DraftResult) -> Figure:
    lines = [(f"{plan.words}, {plan.window} at a time", FORECAST, plan.speedup) for plan in result.plans]
    if result.measured is not None:
        lines.append((lines[0][0], MEASURED, result.measured.speedup))
    if len(result.tasks) > 1:
        lines += [(task.task, FORECAST, task.speedup) for task in result.tasks]
    colours = {FORECAST: charts.SERIES[0], MEASURED: charts.SERIES[1]}
    points = [
        charts.chart_point(
            (speedup.value, speedup.low, speedup.high),
            series,
            name=name,
            about={"": name, series: _times(speedup), "n": str(speedup.n)},
        )
        for name, series, speedup in lines
    ]
    ends = [point[end] for point in points for end in ("y", "low", "high") if point[end] is not None]
    marks = ((1.0, "without a draft"),)
    spec = charts.forest_chart(
        points,
        x_title="times as fast as without a draft",
        x=charts.axis_reach([*ends, 1.0]),
        colours=colours,
        marks=marks,
    )
    return Figure(
        name="speedups",
        title="How much faster the same answers are written",
        panels=[Panel(spec=spec, label="Plot of forecast and measured speed-ups.")],
        caption="95 % intervals over answers to report items.",
        legend=[Key(label=name, colour=colour, line=False) for name, colour in colours.items()],
        columns=1,
        table=draft_tables(result)[0],
    )
