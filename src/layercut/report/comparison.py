"""Scores of pruned models with the original model's, and of any two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from rich.text import Text

from layercut.evidence.comparison import ComparisonRow, left_out
from layercut.evidence.intervals import NUM_RESAMPLES, Estimate
from layercut.evidence.means import overall_mean
from layercut.evidence.study import StudyResults
from layercut.evidence.two_runs import verdict_on_row
from layercut.report import words
from layercut.report.elements import (
    Block,
    Column,
    Details,
    Section,
    Styled,
    Table,
    bullet_list,
    terminal_table,
    text_columns,
)
from layercut.report.source import Source
from layercut.text import count_of, escape_inline, number_text, p_value, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType


NUM_ITEMS = Column("n", lambda row: f"{row.n:,}", numeric=True)


def score_table(
    rows: Sequence[ComparisonRow],
    names: Sequence[str] = ("uncut", "cut", "difference"),
    finding: Callable[[ComparisonRow], Styled] = lambda row: words.finding_cell(row.finding),
) -> Table:
    """A line for each task, readout and metric of one run; ``names`` of both models and their difference."""
    columns = [
        Column("task", attrgetter("task")),
        Column("readout", words.readout_name(rows)),
        Column("finding", finding),
        replace(NUM_ITEMS, narrow=2),
        Column("chance", _chance, numeric=True, narrow=3),
        *_score_columns(names[0], attrgetter("values.uncut")),
        *_score_columns(names[1], attrgetter("values.cut")),
        Column(names[2], _difference, narrow=5),
        Column("kept", lambda row: words.retained_words(row.kept_share)),
        Column("-/+", words.swapped_words, numeric=True, narrow=1),
        Column("Holm", lambda row: p_value(row.p_value), numeric=True, narrow=1),
    ]
    return Table(name="scores", caption="Every score beside the original model's, in %", columns=columns, rows=rows)


def _score_columns(name: str, estimate: Callable[[ComparisonRow], Estimate]) -> list[Column]:
    """The score of one model; a narrow terminal leaves out its interval."""

    def score(row: ComparisonRow) -> tuple[str, str, str]:
        return with_interval(estimate(row), share=row.is_share).partition(" ")

    return [
        Column(name, lambda row: score(row)[0], numeric=True),
        Column("", lambda row: score(row)[2], narrow=4),
    ]


def _chance(row: ComparisonRow) -> str:
    return "-" if row.chance is None else number_text(row.chance, share=row.is_share, digits=1)


def _difference(row: ComparisonRow) -> str:
    return with_interval(row.values.difference, share=row.is_share, digits=1, sign=True)


def _mean_line(rows: Sequence[ComparisonRow]) -> list[str]:
    """The mean of both runs over their tasks; nothing for one task."""
    if (mean := overall_mean(rows)) is None:
        return []
    scores = f"A {number_text(mean.uncut)} %, B {number_text(mean.cut)} %"
    difference = with_interval(mean.difference, sign=True)
    kept = f"kept {words.kept_words(mean.retention)}, above chance {words.kept_words(mean.retention_above_chance)}"
    return [f"mean of {len(mean.tasks)} tasks: {scores}, B - A {difference}; {kept} (n {mean.difference.n:,})"]


def comparison_tables(rows: Sequence[ComparisonRow]) -> list[RenderableType]:
    """One table per cut run and a legend, to be printed one after the other. Nothing for no rows."""
    blocks: list[RenderableType] = []
    for name in dict.fromkeys(row.cut.name for row in rows):
        own = [row for row in rows if row.cut.name == name]
        sets = words.test_set_words(own)
        blocks += [
            Text.assemble("\n", (name, "bold"), " · ", " · ".join(words.scope_words(own))),
            terminal_table(score_table(own)),
        ]
        blocks += [Text(f"items: {sets}", style="dim")] if sets else []
        notes = dict.fromkeys(f"{row.task} ({row.readout}): {row.note}" for row in own if row.note)
        blocks += [Text(f"note: {note}", style="yellow") for note in notes]
    legend = [*words.how_scores_made(rows), *words.word_meanings(rows)]
    return [*blocks, Text("\n".join(["", *legend]), style="dim")] if rows else []


def compare_two_runs(rows: Sequence[ComparisonRow], notes: Sequence[str]) -> tuple[list[str], Table, list[str]]:
    """Two runs of the same items, with remarks on how they were made.

    Returns:
        Lines on both runs and the items; the table of each task, readout and metric; the mean and lines of a legend.
    """
    first, second = rows[0].uncut, rows[0].cut
    scope = [f"A: {first.name}, {words.removal_words(first)}", f"B: {second.name}, {words.removal_words(second)}"]
    scope += [words.item_count_words(rows), *([f"items: {sets}"] if (sets := words.test_set_words(rows)) else [])]
    legend = [
        *_mean_line(rows),
        f"{words.score_units(row.is_share for row in rows)}. B - A on the same items, 95 % intervals by a Bayesian "
        f"bootstrap ({NUM_RESAMPLES:,} resamples, seed {rows[0].seed}). -/+: items that only A or only B gets right.",
        f"Holm: p of no difference, corrected for all {count_of(len(rows), 'row')} (Holm). better, worse: B beside A, "
        "p < 0.05 and an interval without 0. kept: of A's score above chance.",
        *(f"note: {note}" for note in [*notes, *dict.fromkeys(row.note for row in rows if row.note)]),
    ]

    def finding(row: ComparisonRow) -> Styled:
        relation = verdict_on_row(row)
        return Styled(relation, "right" if relation == "better" else "wrong" if relation == "worse" else "faint")

    names = ("A", "B", "B - A")
    return scope, replace(score_table(rows, names, finding), caption="B beside A, in %"), legend


def two_runs_table(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> list[RenderableType]:
    """Two runs on a terminal; what is printed one after the other."""
    scope, table, legend = compare_two_runs(rows, notes)
    return [Text("\n".join(["", *scope])), terminal_table(table), Text("\n".join(["", *legend]), style="dim")]


def scores_section(source: Source) -> Section:
    """Make the section of a study's scores."""
    study: StudyResults = source.value
    rows = study.rows
    main = [row for row in rows if row.is_headline]
    above = {(row.task, row.readout) for row in main if row.finding != "at chance"}
    pairs = list(dict.fromkeys((row.task, row.readout) for row in main))
    silent = ", ".join(f"{task} ({readout})" for task, readout in pairs if (task, readout) not in above)
    notes = [f"The original model is at chance, so there is nothing to lose: {silent}."] if silent else []
    notes += [*study.failed, *left_out(study.uncut, study.cuts)]
    notes += dict.fromkeys(f"{row.cut.name}, {row.task} ({row.readout}): {row.note}" for row in rows if row.note)
    meaning = [
        *words.word_meanings(rows),
        f"p: McNemar's exact test; sign flips for scores that are not 0/1 or items that share a context. Holm: p "
        f"corrected for all {count_of(len(rows), 'row')}; findings use it.",
        *words.how_scores_made(rows),
        *dict.fromkeys(
            f"{row.task} ({row.readout}, {row.metric}): no retention, because {row.values.refused}"
            for row in rows
            if row.values.refused
        ),
    ]
    blocks: list[Block] = [
        _matrix(rows, [pair for pair in pairs if pair in above]),
        bullet_list(map(escape_inline, notes)),
        Details(summary="What the findings and numbers mean", blocks=(bullet_list(map(escape_inline, meaning)),)),
    ]
    return Section(
        name="scores",
        title="Scores of every plan",
        short="Scores",
        lead="What each plan keeps of the score above chance, in %, with its 95 % interval; the scores of both models; "
        "p, and p after Holm's correction.",
        blocks=blocks,
    )


def _matrix(rows: Sequence[ComparisonRow], pairs: Sequence[tuple[str, str]]) -> Table:
    main = {(row.cut.name, row.task, row.readout): row for row in rows if row.is_headline}
    plans: Mapping[str, ComparisonRow] = {row.cut.name: row for row in rows}
    lines = [
        [
            name,
            row.cut.label or "nothing",
            *(_cell(main[name, *pair]) if (name, *pair) in main else Styled("not measured", "faint") for pair in pairs),
        ]
        for name, row in plans.items()
    ]
    return Table(
        name="matrix",
        caption="Plans and tasks, coloured by finding",
        columns=text_columns("plan", "removed", *map(": ".join, pairs)),
        rows=lines,
        matrix=True,
    )


def _cell(row: ComparisonRow) -> Styled:
    """The finding with what is kept, or the difference where the score has no share above chance; and its tests."""
    kept, scores = row.kept_share, " to ".join(words.before_and_after(row, row.is_share))
    tests = f"p {p_value(row.values.p_value)}, Holm {p_value(row.p_value)}"
    if row.uncut_is_at_chance or kept is None:
        change = with_interval(row.values.difference, share=row.is_share, sign=True)
        return replace(words.finding_cell(row.finding, "faint"), below=(f"difference {change}", scores, tests))
    interval = with_interval(kept).partition(" ")[2]
    text = f"{number_text(kept.value)} % {row.finding}"
    return replace(words.finding_cell(row.finding), text=text, below=(interval, scores, tests))
