"""Report of a draft: the answer, forecast and measured speed-ups, and how it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layercut.report import charts
from layercut.report.elements import Block, Figure, Key, Lead, Panel, Section
from layercut.report.table import Column, Styled, Table
from layercut.runs.draft import DraftResult
from layercut.runs.prune import Estimated
from layercut.text.markup import fenced
from layercut.text.numbers import number, two_decimals

if TYPE_CHECKING:
    from layercut.report.source import Source

FORECAST, MEASURED = "forecast", "measured"


def draft_answer(source: Source) -> Section | None:
    """Make the section of the answer, with the forecast of every plan; None without a draft."""
    if source.draft is None:
        return None
    top = Lead(lines=[("", source.draft.why)], large=True)
    return Section(name="answer", title="Lead", blocks=(top, _figure(source.draft), *_legend(source.draft)))


def draft_numbers(source: Source) -> Section | None:
    """Make the section of tasks and measurements; None without a draft."""
    if source.draft is None:
        return None
    result = source.draft
    blocks: list[Block] = [_tasks(result)] if len(result.tasks) > 1 else []
    if (measured := result.measured) is not None:
        blocks.append(
            f"{measured.speedup.n} answers written twice by turns: {times(measured.speedup)} measured, "
            f"{times(measured.forecast)} forecast. {measured.num_same} have the same tokens with and without the "
            f"draft; {measured.num_expected} took as many passes of the original model as forecast "
            f"({measured.rounds:,} in all, {measured.expected_rounds:,} forecast)."
        )
    checks = ", ".join(f"{place}: {check:.2f}" for place, check in enumerate(result.checks, start=1))
    blocks.append(
        f"A step of the original model that checks a number of tokens, in times of its step of one token: {checks}."
    )
    return Section(name="numbers", title="Tasks and measurements", short="Numbers", blocks=blocks)


def serving(source: Source) -> Section | None:
    """Make the section of the commands that serve it; None without any."""
    if source.draft is None or not source.draft.commands:
        return None
    commands = [f"{engine}:\n\n" + "\n".join(fenced(command)) for engine, command in source.draft.commands]
    lead = "Relative paths are from this folder."
    return Section(name="serving", title="Serve it", short="Serve", lead=lead, blocks=commands)


def draft_tables(result: DraftResult) -> list[Table]:
    """For the terminal."""
    return [_plans(result), *([_tasks(result)] if len(result.tasks) > 1 else [])]


def times(one: Estimated) -> str:
    """``x 1.31 [1.28, 1.35]``."""
    return f"x {two_decimals(one)}"


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


class _Line(NamedTuple):
    name: str
    series: str
    found: Estimated


def _figure(result: DraftResult) -> Figure:
    lines = [_Line(f"{one.words}, {one.window} at a time", FORECAST, one.speedup) for one in result.plans]
    if result.measured is not None:
        lines.append(lines[0]._replace(series=MEASURED, found=result.measured.speedup))
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
