"""Scores of pruned models beside the original model's, and of any two runs: their tables, tooltips and legends."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.intervals import NUM_RESAMPLES, Estimate
from layercut.report import words
from layercut.report.table import Cell, Column, Styled, Surface, Table, raw_estimate, terminal
from layercut.report.task_means import form_mean_lines, form_means
from layercut.report.two_runs import verdict
from layercut.surgery.plan import format_layers
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

_TEXT = Surface.TERMINAL | Surface.MARKDOWN


def score_table(rows: Sequence[ComparisonRow]) -> Table:
    """A line for each run, task, readout and metric; the CSV has every number unrounded.

    The terminal and Markdown show a table of one run, the page one of all runs.
    """
    return Table(
        name="scores",
        caption="Every score beside the original model's, in %",
        columns=_columns(rows),
        rows=rows,
        faint=lambda row: not row.is_headline,
    )


def _columns(rows: Sequence[ComparisonRow]) -> list[Column]:
    tests, csv, reports = (1, 2, 3, 4, 5), Surface.CSV, Surface.REPORTS
    return [
        Column("plan", lambda row: row.cut.name, on=Surface.PAGE | csv, raw={"run": attrgetter("cut.name")}),
        Column("removed", lambda row: " ".join(map(str, row.cut.removed)), on=csv),
        Column("num_layers", attrgetter("cut.num_layers"), on=csv),
        Column("task", attrgetter("task"), once=True),
        Column("version", attrgetter("version"), on=csv),
        Column("readout", _readout_of(rows), raw={"readout": attrgetter("readout"), "metric": attrgetter("metric")}),
        Column("finding", finding, on=Surface.PAGE),
        Column("n", _n, numeric=True, narrow=(2, 3, 4, 5), raw={"n": attrgetter("n")}),
        Column("items", attrgetter("asked"), on=csv),
        Column("limit", attrgetter("limit"), on=csv),
        Column(
            "chance", lambda row: _chance(row, 1), brief=_chance, numeric=True, raw={"chance": attrgetter("chance")}
        ),
        *_score("uncut"),
        *_score("cut"),
        Column(
            "difference",
            lambda row: with_interval(row.values.difference, share=row.is_share, digits=1, sign=True),
            brief=_difference,
            raw=raw_estimate("difference", attrgetter("values.difference")),
        ),
        Column(
            "retention",
            lambda row: words.retained(row.values.retention),
            on=_TEXT | csv,
            narrow=(3, 5),
            raw=raw_estimate("retention", attrgetter("values.retention")),
        ),
        Column(
            "above chance",
            lambda row: words.retained(row.values.retention_above_chance),
            raw=raw_estimate("retention_above_chance", attrgetter("values.retention_above_chance")),
        ),
        Column(
            "-/+",
            words.swapped,
            numeric=True,
            narrow=tests,
            raw={"lost": attrgetter("values.lost"), "gained": attrgetter("values.gained")},
        ),
        Column(
            "p",
            lambda row: p_value(row.values.p_value),
            numeric=True,
            on=reports | csv,
            raw={"p_value": attrgetter("values.p_value")},
        ),
        Column("Holm", _holm, numeric=True, on=reports | csv, raw={"p_holm": attrgetter("p_value")}),
        Column("p", _holm, numeric=True, on=Surface.TERMINAL, narrow=tests),
        Column("test", attrgetter("values.test"), on=csv),
        Column("contexts", attrgetter("values.num_clusters"), on=csv),
        Column("finding", lambda row: Styled(row.finding, words.LOOKS.get(row.finding, "faint")), on=_TEXT | csv),
        Column("seed", attrgetter("seed"), on=csv),
        Column("note", attrgetter("note"), on=csv),
    ]


def _score(name: str) -> list[Column]:
    """The score of one model; the terminal can leave out its interval."""
    of = attrgetter(f"values.{name}")

    def parts(row: ComparisonRow) -> tuple[str, str, str]:
        return with_interval(of(row), share=row.is_share).partition(" ")

    return [
        Column(
            name,
            lambda row: with_interval(of(row), share=row.is_share, digits=1),
            on=Surface.REPORTS | Surface.CSV,
            raw=raw_estimate(name, of),
        ),
        Column(name, lambda row: parts(row)[0], numeric=True, on=Surface.TERMINAL),
        Column("", lambda row: parts(row)[2], on=Surface.TERMINAL, narrow=(4, 5)),
    ]


def _readout_of(rows: Sequence[ComparisonRow]) -> Any:
    by_run: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        by_run.setdefault(row.cut.name, []).append(row)
    return lambda row: words.readout_name(row, by_run[row.cut.name])


def _n(row: ComparisonRow) -> str:
    return f"{row.n:,}"


def _chance(row: ComparisonRow, digits: int = 0) -> str:
    return "-" if row.chance is None else number(row.chance, share=row.is_share, digits=digits)


def _difference(row: ComparisonRow) -> str:
    return with_interval(row.values.difference, share=row.is_share, sign=True)


def _holm(row: ComparisonRow) -> str:
    return p_value(row.p_value)


def finding(row: ComparisonRow) -> Cell:
    """The finding of a row with its colour."""
    look = words.LOOKS.get(row.finding)
    return row.finding if look is None else Styled(row.finding, look)


def comparison_tables(rows: Sequence[ComparisonRow]) -> list[RenderableType]:
    """One table per cut run and a legend, to be printed one after the other. Nothing for no rows."""
    if not rows:
        return []
    names = dict.fromkeys(row.cut.name for row in rows)
    blocks: list[RenderableType] = [_one_run([row for row in rows if row.cut.name == name]) for name in names]
    found = [name for name in words.FINDINGS if any(row.finding == name for row in rows)]
    lines = [*words.how_made(rows), *(f"{name}: {words.FINDINGS[name]}." for name in found)]
    return [*blocks, _dim(lines)]


def _one_run(rows: Sequence[ComparisonRow]) -> RenderableType:
    first = rows[0]
    scope = [words.removal(first.cut), words.size(first.uncut, first.cut)]
    scope.append(words.items([row.n for row in rows], [row.limit for row in rows]))
    notes = dict.fromkeys(f"{row.task} ({row.readout}): {row.note}" for row in rows if row.note)
    return Group(
        Text.assemble("\n", (first.cut.name, "bold"), " · ", " · ".join(fact for fact in scope if fact)),
        terminal(score_table(rows)),
        *map(Text, form_mean_lines(rows)),
        *([Text(f"items: {sets}", style="dim")] if (sets := words.test_sets(rows)) else []),
        *(Text(f"note: {note}", style="yellow") for note in notes),
    )


def _dim(lines: Sequence[str]) -> RenderableType:
    return Padding(Text("\n".join(lines), style="dim"), (1, 0, 0, 0))


def two_runs_table(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> list[RenderableType]:
    """A line for each task, readout and metric of any two runs; what is printed one after the other."""
    first, second = rows[0].uncut, rows[0].cut
    scope = [f"A: {first.name}, {words.removal(first)}", f"B: {second.name}, {words.removal(second)}"]
    scope.append(words.items([row.n for row in rows], [row.limit for row in rows]))
    scope += [f"items: {sets}"] if (sets := words.test_sets(rows)) else []
    legend = [
        f"{words.scores_in(row.is_share for row in rows)}. B - A on the same items, 95 % intervals by a Bayesian "
        f"bootstrap ({NUM_RESAMPLES:,} resamples, seed {rows[0].seed}). -/+: items that only A or only B gets right.",
        f"p: of no difference, corrected for all {counted(len(rows), 'row')} (Holm). better, worse: B "
        "beside A, p < 0.05 and an "
        "interval without 0.",
        *(f"note: {note}" for note in [*notes, *dict.fromkeys(row.note for row in rows if row.note)]),
    ]
    columns = [
        Column("task", attrgetter("task"), once=True),
        Column("readout", _readout_of(rows)),
        Column("n", _n, numeric=True),
        Column("A", lambda row: number(row.values.uncut.value, share=row.is_share), numeric=True),
        Column("B", lambda row: number(row.values.cut.value, share=row.is_share), numeric=True),
        Column("B - A", _difference),
        Column("-/+", words.swapped, numeric=True),
        Column("p", _holm, numeric=True),
        Column("finding", _verdict),
    ]
    means = (
        f"{one.words}: A {number(one.mean.uncut)}, B {number(one.mean.cut)}, "
        f"B - A {with_interval(one.mean.difference, sign=True)}"
        for one in form_means(rows)
    )
    table = Table(name="two-runs", caption="", columns=columns, rows=rows)
    return [Text("\n".join(["", *scope])), terminal(table), *map(Text, means), _dim(legend)]


def _verdict(row: ComparisonRow) -> Styled:
    found = verdict(row)
    return Styled(found, "right" if found == "better" else "wrong" if found == "worse" else "faint")


def kept(estimate: Estimate | None) -> str:
    """A retention with its interval in percent, as in report.md."""
    return "n/a" if estimate is None else f"{with_interval(estimate)} %"


def about(row: ComparisonRow) -> dict[str, str]:
    """The tooltip of a point of a pruned model."""
    share = row.is_share
    unit = " %" if share else ""
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    chance = "none" if row.chance is None else f"{_chance(row, 1)}{unit}"
    contexts = row.values.num_clusters
    return {
        "plan": row.cut.name,
        "layers removed": f"{row.cut.depth}: {format_layers(row.cut.removed)}",
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "kept of the score" if row.chance is None else "kept above chance": kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} cut, guessing {chance}",
        "items": f"n {row.n:,}; lost/gained {words.swapped(row)}"
        + ("" if contexts is None else f"; {counted(contexts, 'context')}"),
        "p (Holm)": _holm(row),
        "finding": row.finding,
    }


def about_uncut(row: ComparisonRow) -> dict[str, str]:
    """The tooltip of a point of the original model."""
    unit = " %" if row.is_share else ""
    return {
        "plan": "uncut",
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "score": f"{with_interval(row.values.uncut, share=row.is_share, digits=1)}{unit}",
        "items": f"n {row.n:,}",
    }
