"""Scores of pruned models with the original model's, and of any two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from rich.text import Text

from layercut.evidence.comparison import AnswerChanges, ComparisonRow, left_out
from layercut.evidence.intervals import NUM_RESAMPLES, Estimate
from layercut.evidence.means import overall_means
from layercut.evidence.sample_size import MANY
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
from layercut.report.writers import markdown_of
from layercut.text import count_of, escape_inline, number_text, p_value, two_decimals, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType


NUM_ITEMS = Column("n", lambda row: f"{row.n:,}", numeric=True)


def score_table(
    rows: Sequence[ComparisonRow],
    names: Sequence[str] = ("uncut", "cut", "difference"),
    finding: Callable[[ComparisonRow], Styled] = lambda row: words.finding_cell(row.finding),
) -> Table:
    """A line for each task, readout and metric of one run; ``names`` of both models and their difference."""
    by_margin = [Column("needed", _items_needed, numeric=True, narrow=3), Column("bounds", _margin_bounds, narrow=6)]
    columns = [
        Column("task", _task),
        Column("readout", words.readout_name(rows)),
        Column("finding", finding),
        replace(NUM_ITEMS, narrow=2),
        Column("chance", _chance, numeric=True, narrow=3),
        *_score_columns(names[0], attrgetter("values.uncut")),
        *_score_columns(names[1], attrgetter("values.cut")),
        Column(names[2], _difference, narrow=5),
        *(by_margin if rows[0].by_margin else ()),
        Column("kept", lambda row: words.retained_words(row.kept_share)),
        Column("-/+", words.swapped_words, numeric=True, narrow=1),
        Column("Holm", lambda row: p_value(row.p_value), numeric=True, narrow=1),
    ]
    return Table(name="scores", caption="Every score beside the original model's, in %", columns=columns, rows=rows)


def _task(row: ComparisonRow) -> str:
    return f"{row.task} ({len(row.group)} tasks)" if row.group else row.task


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


def _margin_bounds(row: ComparisonRow) -> str:
    """What is compared with a margin: the change in points, or the share that is kept."""
    judged = row.by_margin
    if judged is None or judged.low is None or judged.high is None:
        return "-"
    return " to ".join(number_text(end, digits=1, sign=not judged.margin.is_share) for end in (judged.low, judged.high))


def _items_needed(row: ComparisonRow) -> str:
    """Number of items that decide; a dash where none are needed, or no number is known."""
    judged = row.by_margin
    if judged is None or judged.verdict != "too few items" or judged.low is None:
        return "-"
    return f">{MANY * row.n:,}" if judged.items_needed is None else f"{judged.items_needed:,}"


def _verdict_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """The answer under a margin: how many rows have each verdict, the worst first; nothing without a margin."""
    if rows[0].by_margin is None:
        return []
    lines = [f"Is B as good as A, within {rows[0].by_margin.margin}?"]
    for verdict in words.VERDICTS:
        names = [f"{_task(row)} ({words.readout_name(rows)(row)})" for row in rows if verdict_on_row(row) == verdict]
        if names:
            more = [f"{len(names) - 3} more"] if len(names) > 3 else []
            lines.append(f"{verdict}: {', '.join([*names[:3], *more])}")
    return lines


def _mean_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """The means of both runs over their tasks, a line for each kind of answer."""
    lines = []
    for kind, mean in overall_means(rows).items():
        scores = f"A {number_text(mean.uncut)} %, B {number_text(mean.cut)} %"
        difference = with_interval(mean.difference, digits=1, sign=True)
        if mean.over_tasks is not None:
            other = with_interval(mean.over_tasks, digits=1, sign=True).partition(" ")[2]
            difference += f", for other tasks like these {other}"
        kept = f"kept {words.kept_words(mean.retention)}, above chance {words.kept_words(mean.retention_above_chance)}"
        lines.append(
            f"{kind}, mean of {len(mean.tasks)} tasks: {scores}, B - A {difference}; {kept} (n {mean.difference.n:,})"
        )
    return lines


def _changes_table(rows: Sequence[ComparisonRow]) -> Table:
    """Changed answers of each task and readout, where the samples hold them."""

    def of_total(count: int | None, total: int | None) -> str:
        return "-" if count is None else f"{count:,} of {total:,}"

    columns = [
        Column("task", _task),
        Column("readout", words.readout_name(rows)),
        Column("-/+", words.swapped_words, numeric=True),
        Column("other answer", lambda row: of_total(row.changes.other_answer, row.changes.same_score), numeric=True),
        Column("same wrong", lambda row: of_total(row.changes.same_wrong, row.changes.both_wrong), numeric=True),
        Column("right option", lambda row: "-" if (nats := row.changes.log_likelihood) is None else two_decimals(nats)),
    ]
    known = [row for row in rows if row.changes not in (None, AnswerChanges())]
    return Table(name="changes", caption="Changed answers", columns=columns, rows=known)


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


def compare_two_runs(rows: Sequence[ComparisonRow], notes: Sequence[str]) -> tuple[list[str], list[Table], list[str]]:
    """Two runs of the same items, with remarks on how they were made.

    Returns:
        Lines on both runs, the items and the verdict; tables of scores and of changed answers; the means and lines of a
        legend.
    """
    first, second = rows[0].uncut, rows[0].cut
    scope = [f"A: {first.name}, {words.removal_words(first)}", f"B: {second.name}, {words.removal_words(second)}"]
    scope += [words.item_count_words(rows), *([f"items: {sets}"] if (sets := words.test_set_words(rows)) else [])]
    verdicts = {verdict_on_row(row) for row in rows}
    meanings = [f"{name}: {meaning}." for name, (_, meaning) in words.VERDICTS.items() if name in verdicts]
    if rows[0].by_margin is None:
        meanings = ["better, worse: B beside A, p < 0.05 and an interval without 0."]
    tables = [table] if (table := _changes_table(rows)).rows else []
    reasons = dict.fromkeys(
        f"{row.task}: {row.by_margin.reason}" for row in rows if row.by_margin and row.by_margin.reason
    )
    legend = [
        *_mean_lines(rows),
        f"{words.score_units(row.is_share for row in rows)}. B - A on the same items, 95 % intervals by a Bayesian "
        f"bootstrap ({NUM_RESAMPLES:,} resamples, seed {rows[0].seed}). -/+: items that only A or only B gets right.",
        f"Holm: p of no difference, corrected for {count_of(len(rows), 'row')}. kept: of A's score above chance.",
        *meanings,
        *([words.BOUNDS] if rows[0].by_margin else []),
        *([words.CHANGES] if tables else []),
        *(f"note: {note}" for note in [*notes, *dict.fromkeys(row.note for row in rows if row.note), *reasons]),
    ]

    def finding(row: ComparisonRow) -> Styled:
        verdict = verdict_on_row(row)
        return Styled(verdict, words.VERDICTS[verdict][0])

    scores = replace(score_table(rows, ("A", "B", "B - A"), finding), caption="B beside A, in %")
    return [*scope, *_verdict_lines(rows)], [scores, *tables], legend


def two_runs_table(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> list[RenderableType]:
    """Two runs on a terminal; what is printed one after the other."""
    scope, tables, legend = compare_two_runs(rows, notes)
    shown = [block for table in tables for block in (Text(""), terminal_table(table))]
    return [Text("\n".join(["", *scope])), *shown[1:], Text("\n".join(["", *legend]), style="dim")]


def two_runs_markdown(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> str:
    """Two runs in Markdown, for a pull request."""
    scope, tables, legend = compare_two_runs(rows, notes)
    return markdown_of([bullet_list(map(escape_inline, scope)), *tables, bullet_list(map(escape_inline, legend))])


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
