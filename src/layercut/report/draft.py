"""Report of a draft: the answer, forecast and measured speed-ups, and how it is served."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from layercut.report.elements import Figure, Key, Panel, Section
from layercut.report.figures import charts
from layercut.report.html.layout import blocks
from layercut.report.html.page import laid_out
from layercut.report.provenance import write_report
from layercut.report.table import Column, Part, Styled, Table
from layercut.runs.atomic import write_text
from layercut.runs.directory import PAGE, REPORT, RunFolder
from layercut.runs.draft import DraftPlan, DraftResult
from layercut.runs.prune import Estimated
from layercut.text.markup import fenced
from layercut.text.numbers import number, two_decimals

FORECAST, MEASURED = "forecast", "measured"


def draft_reports(folder: Path) -> dict[str, Path]:
    """Write report.md and report.html of a finished draft; gives their paths."""
    result, run = DraftResult.load(folder), RunFolder.open(folder)
    parts = _parts(result)
    title = f"{Path(result.model).name} with a draft of itself"
    report = write_report(run, REPORT, [f"# {title}", "", result.why, "", *parts])
    sections = [
        Section(name="answer", title="Answer", lead=result.why, blocks=(_figure(result),)),
        Section(name="numbers", title="Numbers", blocks=tuple(blocks(parts[1:]))),
    ]
    write_text(folder / PAGE, laid_out(title, Markup("{}").format(title), sections))
    return {"report": report, "page": folder / PAGE}


def draft_tables(result: DraftResult) -> list[Table]:
    """For the terminal."""
    return [_plans(result), *([_tasks(result)] if len(result.tasks) > 1 else [])]


def times(one: Estimated) -> str:
    """``x 1.31 [1.28, 1.35]``."""
    return f"x {two_decimals(one)}"


def _parts(result: DraftResult) -> list[Part]:
    parts: list[Part] = [_plans(result), "", *_legend(result), ""]
    if len(result.tasks) > 1:
        parts += [_tasks(result), ""]
    if result.measured is not None:
        parts += ["## Measured", "", *_measured(result), ""]
    checks = ", ".join(f"{place}: {one:.2f}" for place, one in enumerate(result.checks, start=1))
    parts += [
        f"A step of the original model that checks a number of tokens, in times of its step of one token: {checks}.",
        "",
    ]
    if result.commands:
        parts += ["## Serve it", "", "Relative paths are from this folder.", ""]
    for engine, command in result.commands:
        parts += [f"{engine}:", "", *fenced(command), ""]
    return parts


def _plans(result: DraftResult) -> Table:
    columns = [
        Column("draft", lambda one: Styled(one.words, "strong" if one is result.chosen else "plain")),
        Column("reads", lambda one: f"{number(one.read)} %", numeric=True, narrow=(1,)),
        Column("a step", lambda one: f"{number(one.step)} %", numeric=True),
        Column("same token", lambda one: f"{number(one.agrees.value)} %", numeric=True),
        Column("window", lambda one: str(one.window), numeric=True),
        Column("accepted", lambda one: f"{number(one.accepted.value)} %", numeric=True, narrow=(1,)),
        Column("tokens a round", lambda one: f"{one.per_round.value:.2f}", numeric=True),
        Column("forecast", lambda one: times(one.speedup)),
        Column("by bytes", lambda one: times(one.bandwidth), narrow=(1,)),
    ]
    n = sum(task.n for task in result.tasks)
    return Table(
        name="drafts", caption=f"Drafts on {n:,} answers to report items", columns=columns, rows=list(result.plans)
    )


def _tasks(result: DraftResult) -> Table:
    columns = [
        Column("task", lambda one: f"{one.task} ({one.readout})"),
        Column("n", lambda one: str(one.n), numeric=True),
        Column("tokens", lambda one: f"{one.tokens:,}", numeric=True),
        Column("tokens a round", lambda one: f"{one.per_round.value:.2f}", numeric=True),
        Column("forecast", lambda one: times(one.speedup)),
    ]
    return Table(name="draft-tasks", caption="The chosen draft by task", columns=columns, rows=list(result.tasks))


def _legend(result: DraftResult) -> list[str]:
    drawn = result.chosen.drawn
    lines = [
        f"Greedy answers, {result.serve}, {result.dtype}, times of {result.times}; 95 % intervals over answers, seed "
        f"{result.seed}. *A step*: time of a draft's step, of the original model's. *Same token*: the draft's "
        "likeliest token is the answer's. Accepted lengths follow exactly from those; seconds from measured steps. "
        "*By bytes*: where a step takes as long as reading its weights once, however many tokens it checks, as on a "
        "GPU with few requests at once; attention, prompts and all overhead are left out.",
    ]
    if drawn is not None:
        lines.append(f"Tokens drawn at temperature 1: {times(drawn)} by forecast, prompts left out.")
    if result.tried:
        lines.append(f"{result.tried} plans were tried on selection items; the first is the fastest there.")
    return lines


def _measured(result: DraftResult) -> list[str]:
    one = result.measured
    assert one is not None
    return [
        f"{one.speedup.n} answers written twice by turns: {times(one.speedup)} measured, {times(one.forecast)} "
        f"forecast. {one.num_same} have the same tokens with and without the draft; {one.num_expected} took as many "
        f"passes of the original model as forecast ({one.rounds:,} in all, {one.expected_rounds:,} forecast)."
    ]


class _Line(NamedTuple):
    name: str
    series: str
    found: Estimated


def _figure(result: DraftResult) -> Figure:
    lines = [_Line(_name(one), FORECAST, one.speedup) for one in result.plans]
    if result.measured is not None:
        lines.append(_Line(_name(result.chosen), MEASURED, result.measured.speedup))
    if len(result.tasks) > 1:
        lines += [_Line(task.task, FORECAST, task.speedup) for task in result.tasks]
    colours = {FORECAST: charts.SERIES[0], MEASURED: charts.SERIES[1]}
    points = [
        charts.marked(
            {"y": line.found.value, "low": line.found.low, "high": line.found.high},
            line.series,
            name=line.name,
            about={"": line.name, line.series: times(line.found), "n": str(line.found.n)},
        )
        for line in lines
    ]
    ends = [end for line in lines for end in (line.found.value, line.found.low, line.found.high) if end is not None]
    spec = charts.forest(
        points,
        x_title="times as fast as without a draft",
        x=charts.reach([*ends, 1.0]),
        colours=colours,
        marks=((1.0, "without a draft"),),
    )
    label = "Plot of forecast and measured speed-ups."
    return Figure(
        name="speedups",
        title="How much faster the same answers are written",
        panels=[Panel(spec=spec, label=label)],
        caption="95 % intervals over answers to report items.",
        legend=[Key(label=name, colour=colour, line=False) for name, colour in colours.items()],
        columns=1,
        table=_plans(result),
    )


def _name(plan: DraftPlan) -> str:
    return f"{plan.words}, {plan.window} at a time"
