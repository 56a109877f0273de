"""Scores of pruned models beside the original model's, and of any two runs: their tables, tooltips and legends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group
from rich.text import Text

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.means import form_means
from layercut.evidence.two_runs import verdict
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.table import Column, Styled, Surface, Table, raw_estimates, raw_values, terminal
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.runs.directory import RunFolder


def score_table(rows: Sequence[ComparisonRow]) -> Table:
    """A line for each run, task, readout and metric; the CSV has every number unrounded.

    The terminal shows a table of one run, reports one of all runs.
    """
    return Table(
        name="scores",
        caption="Every score beside the original model's, in %",
        columns=_columns(rows),
        rows=rows,
        faint=lambda row: not row.is_headline,
    )


def kept_table(
    name: str, caption: str, rows: Sequence[ComparisonRow], of_plan: Sequence[Column] = (), last: Sequence[Column] = ()
) -> Table:
    """The numbers of a figure of retention, with further columns; its CSV has every number of the rows."""
    columns = [
        Column("plan", attrgetter("cut.name")),
        *of_plan,
        Column("task", attrgetter("task")),
        Column("readout", attrgetter("readout")),
        Column("n", lambda row: f"{row.n:,}", numeric=True),
        Column("kept above chance, %", lambda row: words.retained(row.kept_share)),
        *last,
    ]
    return Table(name=name, caption=caption, columns=columns, rows=rows, download=score_table(rows))


def _columns(rows: Sequence[ComparisonRow]) -> list[Column]:
    tests, csv, reports = (1, 2, 3, 4, 5), Surface.CSV, Surface.REPORTS
    run: dict[str, Callable[[Any], Any]] = {"removed": lambda row: " ".join(map(str, row.cut.removed))}
    run |= raw_values(mlp="cut.mlp", num_layers="cut.num_layers")
    return [
        Column("plan", attrgetter("cut.name"), on=reports | csv, raw=raw_values(run="cut.name") | run),
        Column("task", attrgetter("task"), once=True, raw=raw_values(task="task", version="version")),
        Column("readout", _readout_of(rows), raw=raw_values(readout="readout", metric="metric")),
        Column("finding", lambda row: words.finding_cell(row.finding), on=reports),
        Column(
            "n",
            lambda row: f"{row.n:,}",
            numeric=True,
            narrow=(2, 3, 4, 5),
            raw=raw_values(n="n", items="asked", limit="limit"),
        ),
        Column("chance", _chance, brief=lambda row: _chance(row, 0), numeric=True, raw=raw_values(chance="chance")),
        *_score("uncut"),
        *_score("cut"),
        Column(
            "difference",
            _difference,
            brief=lambda row: _difference(row, 0),
            raw=raw_estimates(difference="values.difference"),
        ),
        Column(
            "retention",
            lambda row: words.retained(row.values.retention),
            on=Surface.TERMINAL | Surface.MARKDOWN | csv,
            narrow=(3, 5),
            raw=raw_estimates(retention="values.retention"),
        ),
        Column(
            "above chance",
            lambda row: words.retained(row.values.retention_above_chance),
            raw=raw_estimates(retention_above_chance="values.retention_above_chance"),
        ),
        Column(
            "-/+", words.swapped, numeric=True, narrow=tests, raw=raw_values(lost="values.lost", gained="values.gained")
        ),
        Column(
            "p",
            lambda row: p_value(row.values.p_value),
            numeric=True,
            on=reports | csv,
            raw=raw_values(p_value="values.p_value"),
        ),
        Column(
            "Holm",
            lambda row: p_value(row.p_value),
            numeric=True,
            on=reports | csv,
            raw=raw_values(p_holm="p_value", test="values.test", contexts="values.num_clusters"),
        ),
        Column("p", lambda row: p_value(row.p_value), numeric=True, on=Surface.TERMINAL, narrow=tests),
        Column(
            "finding",
            lambda row: words.finding_cell(row.finding, "faint"),
            on=Surface.TERMINAL | csv,
            raw=raw_values(finding="finding", seed="seed", note="note"),
        ),
    ]


def _score(name: str) -> list[Column]:
    """The score of one model; the terminal can leave out its interval."""
    of = attrgetter(f"values.{name}")

    def score(row: ComparisonRow) -> str:
        return with_interval(of(row), share=row.is_share, digits=1)

    def brief(row: ComparisonRow) -> tuple[str, str, str]:
        return with_interval(of(row), share=row.is_share).partition(" ")

    return [
        Column(name, score, on=Surface.REPORTS | Surface.CSV, raw=raw_estimates(**{name: f"values.{name}"})),
        Column(name, lambda row: brief(row)[0], numeric=True, on=Surface.TERMINAL),
        Column("", lambda row: brief(row)[2], on=Surface.TERMINAL, narrow=(4, 5)),
    ]


def _readout_of(rows: Sequence[ComparisonRow]) -> Any:
    by_run: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        by_run.setdefault(row.cut.name, []).append(row)
    return lambda row: words.readout_name(row, by_run[row.cut.name])


def _chance(row: ComparisonRow, digits: int = 1) -> str:
    return "-" if row.chance is None else number(row.chance, share=row.is_share, digits=digits)


def _difference(row: ComparisonRow, digits: int = 1) -> str:
    return with_interval(row.values.difference, share=row.is_share, digits=digits, sign=True)


def comparison_tables(rows: Sequence[ComparisonRow]) -> list[RenderableType]:
    """One table per cut run and a legend, to be printed one after the other. Nothing for no rows."""
    if not rows:
        return []
    names = dict.fromkeys(row.cut.name for row in rows)
    blocks: list[RenderableType] = [_one_run([row for row in rows if row.cut.name == name]) for name in names]
    found = [name for name in words.FINDINGS if any(row.finding == name for row in rows)]
    lines = [*words.how_made(rows), *(f"{name}: {words.FINDINGS[name]}." for name in found)]
    return [*blocks, Text("\n".join(["", *lines]), style="dim")]


def _one_run(rows: Sequence[ComparisonRow]) -> RenderableType:
    scope = [*words.scope(rows), words.items([row.n for row in rows], [row.limit for row in rows])]
    notes = dict.fromkeys(f"{row.task} ({row.readout}): {row.note}" for row in rows if row.note)
    return Group(
        Text.assemble("\n", (rows[0].cut.name, "bold"), " · ", " · ".join(scope)),
        terminal(score_table(rows)),
        *map(Text, form_mean_lines(rows)),
        *([Text(f"items: {sets}", style="dim")] if (sets := words.test_sets(rows)) else []),
        *(Text(f"note: {note}", style="yellow") for note in notes),
    )


def form_mean_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """A line for each form of one run's rows.

    ``mean of 7 ranked tasks, n 448: uncut 50, cut 45, difference -6 [-9, -2]; retention 88 [82, 96], above chance ...``
    """
    lines = []
    for one in form_means(rows):
        mean = one.mean
        kept = f"retention {words.retained(mean.retention)}, above chance {words.retained(mean.retention_above_chance)}"
        scores = f"uncut {number(mean.uncut)}, cut {number(mean.cut)}"
        difference = with_interval(mean.difference, sign=True)
        lines.append(f"{one.words}: {scores}, difference {difference}; {kept}")
    return lines


class TwoRuns(NamedTuple):
    """Any two runs, as all that show them have it."""

    scope: Sequence[str]
    """Both runs, and the items; lines of text."""
    table: Table
    """A line for each task, readout and metric."""
    means: Sequence[str]
    """Means over tasks, a line each."""
    legend: Sequence[str]
    """Meaning of the columns, and remarks."""


def two_runs(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> TwoRuns:
    """Two runs of the same items, with remarks on how they were made."""
    first, second = rows[0].uncut, rows[0].cut
    scope = [f"A: {first.name}, {words.removal(first)}", f"B: {second.name}, {words.removal(second)}"]
    scope.append(words.items([row.n for row in rows], [row.limit for row in rows]))
    scope += [f"items: {sets}"] if (sets := words.test_sets(rows)) else []
    legend = [
        f"{words.scores_in(row.is_share for row in rows)}. B - A on the same items, 95 % intervals by a Bayesian "
        f"bootstrap ({NUM_RESAMPLES:,} resamples, seed {rows[0].seed}). -/+: items that only A or only B gets right.",
        f"p: of no difference, corrected for all {counted(len(rows), 'row')} (Holm). better, worse: B "
        "beside A, p < 0.05 and an "
        "interval without 0. kept: of A's score above chance.",
        *(f"note: {note}" for note in [*notes, *dict.fromkeys(row.note for row in rows if row.note)]),
    ]

    def finding(row: ComparisonRow) -> Styled:
        relation = verdict(row)
        return Styled(relation, "right" if relation == "better" else "wrong" if relation == "worse" else "faint")

    columns = [
        Column("task", attrgetter("task"), once=True),
        Column("readout", _readout_of(rows)),
        Column("n", lambda row: f"{row.n:,}", numeric=True),
        Column("chance", lambda row: _chance(row, 0), numeric=True, narrow=(1, 2, 3)),
        Column("A", lambda row: number(row.values.uncut.value, share=row.is_share), numeric=True),
        Column("B", lambda row: number(row.values.cut.value, share=row.is_share), numeric=True),
        Column("B - A", lambda row: _difference(row, 0)),
        Column("-/+", words.swapped, numeric=True),
        Column("p", lambda row: p_value(row.p_value), numeric=True),
        Column("kept", lambda row: words.retained(row.kept_share), narrow=(2, 3)),
        Column("finding", finding),
    ]
    means = [
        f"{one.words}: A {number(one.mean.uncut)}, B {number(one.mean.cut)}, "
        f"B - A {with_interval(one.mean.difference, sign=True)}"
        for one in form_means(rows)
    ]
    return TwoRuns(scope, Table(name="two-runs", caption="B beside A", columns=columns, rows=rows), means, legend)


def two_runs_table(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> list[RenderableType]:
    """Two runs on a terminal; what is printed one after the other."""
    found = two_runs(rows, notes)
    return [
        Text("\n".join(["", *found.scope])),
        terminal(found.table),
        *map(Text, found.means),
        Text("\n".join(["", *found.legend]), style="dim"),
    ]


class Discordance(NamedTuple):
    """One model on the items that it was asked under two readouts."""

    run: str
    task: str
    ranked: str
    """The readout that compares given answers."""
    written: str
    """The readout whose answers the model writes itself."""
    items: Counter[tuple[bool, bool]]
    """Number of items by whether the right answer is ranked first, and whether it is written."""


def discordances(runs: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> list[Discordance]:
    """A line for each task with a ranked and a written readout, and each run that was asked both.

    Args:
        runs: the uncut run, then the cut ones.
        rows: of compare_runs; only main metrics that are right or wrong for every item count.
    """
    main = [row for row in rows if row.is_headline and row.values.lost is not None]
    found = []
    for task in dict.fromkeys(row.task for row in main):
        names = list(dict.fromkeys(row.readout for row in main if row.task == task))
        for ranked in (name for name in names if not is_written(name)):
            for written in (name for name in names if is_written(name)):
                asked = {row.cut.name for row in main if row.task == task and row.readout == ranked}
                asked &= {row.cut.name for row in main if row.task == task and row.readout == written}
                for place, run in enumerate(runs):
                    if place == 0 or run.name in asked:
                        right = [
                            {record["id"]: record["outcome"] == "right" for record in run.records(task, readout)}
                            for readout in (ranked, written)
                        ]
                        counts = Counter((right[0][item], right[1][item]) for item in right[0] if item in right[1])
                        found.append(Discordance(run.name, task, ranked, written, counts))
    return found


def discordance_table(found: Sequence[Discordance]) -> Table:
    """A line for each of them. Heads are short, so that no name is broken at 80 columns."""
    return Table(
        name="discordant-items",
        caption="Number of items on which the two readouts agree and disagree, for each model",
        columns=[
            Column("task", attrgetter("task")),
            Column("readouts", lambda one: f"{one.ranked} / {one.written}"),
            Column("model", attrgetter("run")),
            Column("n", lambda one: f"{one.items.total():,}", numeric=True),
            Column("both right", lambda one: str(one.items[True, True]), numeric=True),
            Column("ranked only", lambda one: str(one.items[True, False]), numeric=True),
            Column("written only", lambda one: str(one.items[False, True]), numeric=True),
            Column("neither", lambda one: str(one.items[False, False]), numeric=True),
        ],
        rows=found,
    )


def about(row: ComparisonRow) -> dict[str, str]:
    """The tooltip of a point of a pruned model."""
    share = row.is_share
    unit = " %" if share else ""
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    chance = "none" if row.chance is None else f"{_chance(row)}{unit}"
    contexts = row.values.num_clusters
    return {
        "plan": row.cut.name,
        "removed": f"{row.cut.amount}: {row.cut.label}",
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "kept of the score" if row.chance is None else "kept above chance": words.kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} cut, guessing {chance}",
        "items": f"n {row.n:,}; lost/gained {words.swapped(row)}"
        + ("" if contexts is None else f"; {counted(contexts, 'context')}"),
        "p (Holm)": p_value(row.p_value),
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
