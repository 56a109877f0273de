"""Scores: a matrix of plans and tasks, every number, means over tasks and seeds, and readouts compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from layercut.evidence.comparison import ComparisonRow, arm_of, left_out
from layercut.evidence.means import form_means
from layercut.evidence.study import are_thinner, over_seeds
from layercut.report import words
from layercut.report.comparison import discordance_table, discordances, score_table
from layercut.report.elements import Block, Details, Section, bullets
from layercut.report.retention import MOST_PANELS, readouts_figure
from layercut.report.runs import scores_legend, scores_table
from layercut.report.table import Column, Styled, Table
from layercut.report.words import readout_name, retained
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number, p_value, with_interval

if TYPE_CHECKING:
    from layercut.evidence.intervals import Estimate
    from layercut.evidence.study import OverSeeds
    from layercut.report.source import Source


def evaluation(source: Source) -> Section | None:
    """Make the section of the scores of one run; None for any other folder."""
    rows = source.evaluation
    if rows is None:
        return None
    removed = words.removal(arm_of(source.own_runs["evaluation"]))
    lead = f"{removed}, {words.items([row['n'] for row in rows], [row['limit'] for row in rows])}."
    return Section(name="scores", title="Scores", lead=lead, blocks=(scores_table(rows), scores_legend(rows)))


def scores(source: Source) -> Section | None:
    """Make the section of scores; None without a study."""
    study = source.study
    if study is None:
        return None
    rows = study.rows
    pairs = list(dict.fromkeys((row.task, row.readout) for row in rows if row.is_headline))
    above = {(row.task, row.readout) for row in rows if row.is_headline and row.finding != "at chance"}
    silent = [f"{task} ({readout})" for task, readout in pairs if (task, readout) not in above]
    notes = [f"The original model is at chance, so there is nothing to lose: {', '.join(silent)}."] if silent else []
    notes += [*study.failed, *left_out(study.uncut, study.cuts)]
    notes += dict.fromkeys(f"{row.cut.name}, {row.task} ({row.readout}): {row.note}" for row in rows if row.note)
    refused = (row for row in rows if row.values.refused)
    meaning = [
        *(f"{name}: {words.FINDINGS[name]}." for name in words.FINDINGS if any(row.finding == name for row in rows)),
        f"p: McNemar's exact test; sign flips for scores that are not 0/1 or items that share a context. Holm: p "
        f"corrected for all {counted(len(rows), 'row')}; findings use it. -/+: items lost and gained.",
        *words.how_made(rows),
        *dict.fromkeys(
            f"{row.task} ({row.readout}, {row.metric}): no retention, because {row.values.refused}" for row in refused
        ),
    ]
    by_plan = {run.name: [row for row in rows if row.cut.name == run.name] for run in study.cuts}
    plans = counted(len(study.cuts), "plan")
    blocks: list[Block] = [
        _matrix(rows, [pair for pair in pairs if pair in above]),
        *form_mean_tables(rows),
        bullets(map(escape, notes)),
        Details(summary=f"Findings of {plans}", blocks=[_findings(name, own) for name, own in by_plan.items()]),
        Details(summary=f"Every number of {plans}: a line for each metric", blocks=(score_table(rows),)),
        Details(summary="What the findings and numbers mean", blocks=(bullets(map(escape, meaning)),)),
    ]
    return Section(
        name="scores",
        title="Scores of every plan",
        short="Scores",
        lead="What each plan keeps of the score above chance, in %, with its 95 % interval, p, and p after Holm's "
        "correction.",
        blocks=blocks,
    )


def _findings(name: str, rows: Sequence[ComparisonRow]) -> str:
    """What one plan removes, and a sentence for each finding."""
    scope = [*words.scope(rows), words.items([row.n for row in rows], [row.limit for row in rows])]
    first = f"**{escape(name)}**: {', '.join(scope)}. {words.summary(rows).capitalize()}."
    return f"{first}\n\n{bullets(words.headline(rows))}"


def _matrix(rows: Sequence[ComparisonRow], pairs: Sequence[tuple[str, str]]) -> Table:
    by_plan: dict[str, dict[tuple[str, str], ComparisonRow]] = {row.cut.name: {} for row in rows}
    for row in rows:
        if row.is_headline:
            by_plan[row.cut.name][row.task, row.readout] = row
    arms = {row.cut.name: row.cut for row in rows}

    def column(pair: tuple[str, str]) -> Column:
        def value(plan: str) -> Styled:
            row = by_plan[plan].get(pair)
            return Styled("not measured", "faint") if row is None else _cell(row)

        def kept(plan: str) -> float | None:
            row = by_plan[plan].get(pair)
            return None if row is None or row.kept_share is None else row.kept_share.value

        name = ": ".join(pair)
        return Column(name, value, raw={name: kept})

    def depth(plan: str) -> int:
        return arms[plan].depth

    gone = Column("layers", lambda plan: str(depth(plan)), numeric=True, raw={"layers": depth})
    caption = "Plans and tasks, coloured by finding; layers: how many are removed"
    if are_thinner(rows):
        gone = Column(
            "removed", lambda plan: arms[plan].label, raw={"layers": depth, "mlp": lambda plan: arms[plan].mlp}
        )
        caption = "Plans and tasks, coloured by finding"
    return Table(
        name="matrix",
        caption=caption,
        columns=[
            Column("plan", str),
            gone,
            *map(column, pairs),
        ],
        rows=list(arms),
        matrix=True,
    )


def _cell(row: ComparisonRow) -> Styled:
    """The finding with what is kept, or the difference where the score has no share above chance; and its tests."""
    kept, tests = row.kept_share, f"p {p_value(row.values.p_value)}, Holm {p_value(row.p_value)}"
    if row.uncut_is_at_chance or kept is None:
        change = with_interval(row.values.difference, share=row.is_share, sign=True)
        return replace(words.finding_cell(row.finding, "faint"), below=(f"difference {change}", tests))
    interval = with_interval(kept).partition(" ")[2]
    cell = words.finding_cell(row.finding)
    return replace(cell, text=f"{number(kept.value)} % {row.finding}", below=(interval, tests))


def form_mean_tables(rows: Sequence[ComparisonRow]) -> list[Table]:
    """A line for each run and form, in %; no table where no run has two tasks of one form."""
    means = form_means(rows)
    table = Table(
        name="task-means",
        caption="Ranked tasks together, and written tasks together: means over tasks, in %",
        columns=[
            Column("plan", lambda one: one.run),
            Column("form", lambda one: one.form),
            Column("tasks", lambda one: str(len(one.mean.tasks)), numeric=True),
            Column("n", lambda one: f"{one.mean.difference.n:,}", numeric=True),
            Column("uncut", lambda one: number(one.mean.uncut, digits=1), numeric=True),
            Column("cut", lambda one: number(one.mean.cut, digits=1), numeric=True),
            Column("difference", lambda one: with_interval(one.mean.difference, digits=1, sign=True)),
            Column("retention", lambda one: retained(one.mean.retention)),
            Column("above chance", lambda one: retained(one.mean.retention_above_chance)),
        ],
        rows=means,
    )
    return [table] if means else []


def seeds(source: Source) -> Section | None:
    """Make the section of plans that were measured under several seeds; None where every plan has one."""
    study = source.study
    found = over_seeds(study.cuts, study.rows, seed=study.seed) if study is not None else []
    if not found:
        return None
    shown = [one.first for one in found]

    def score(value: float, one: OverSeeds) -> str:
        return number(value, share=one.first.is_share, digits=1)

    def interval(value: Estimate, one: OverSeeds, *, sign: bool = False) -> str:
        return with_interval(value, share=one.first.is_share, digits=1, sign=sign)

    table = Table(
        name="seeds",
        caption="All seeds together",
        columns=[
            Column("plan", lambda one: one.first.cut.plan or one.first.cut.name),
            Column("task", lambda one: one.first.task),
            Column("readout", lambda one: readout_name(one.first, shown)),
            Column("seeds", lambda one: str(len(one.rows)), numeric=True),
            Column("items", lambda one: f"{one.first.n:,}", numeric=True),
            Column("uncut", lambda one: interval(one.values.uncut, one)),
            Column("cut", lambda one: interval(one.values.cut, one)),
            Column("lowest", lambda one: score(min(row.values.cut.value for row in one.rows), one), numeric=True),
            Column("highest", lambda one: score(max(row.values.cut.value for row in one.rows), one), numeric=True),
            Column("difference", lambda one: interval(one.values.difference, one, sign=True)),
            Column("retention", lambda one: retained(one.values.retention)),
            Column("above chance", lambda one: retained(one.values.retention_above_chance)),
        ],
        rows=found,
    )
    return Section(
        name="seeds",
        title="All seeds together",
        short="Seeds",
        lead=f"Plans that were measured under several seeds. {words.scores_in(one.first.is_share for one in found)}. "
        "Intervals are over items, given these seeds: an item's answers under all seeds are resampled together. "
        "lowest, highest: the pruned model's score under one seed.",
        blocks=(table,),
    )


def readouts(source: Source) -> Section | None:
    """Make the section that compares readouts; None where no task has two."""
    study = source.study
    main = [row for row in study.rows if row.is_headline] if study is not None else []
    several = {row.task for row in main if len({other.readout for other in main if other.task == row.task}) > 1}
    rows = [row for row in main if row.task in several]
    if study is None or not rows:
        return None
    blocks: list[Block] = []
    if figure := readouts_figure(study, rows):
        is_long = len(study.cuts) > MOST_PANELS
        blocks.append(Details(summary=figure.title, blocks=(figure,)) if is_long else figure)
    if apart := discordances([study.uncut, *study.cuts], rows):
        note = "Guessing gets more rankings right than writings, so compare the models, not the columns."
        blocks.append(
            Details(summary="Items that are ranked, written, both or neither", blocks=(discordance_table(apart), note))
        )
    return Section(
        name="readouts",
        title="The same items, scored by likelihood and by generation",
        short="Readouts",
        lead="A likelihood benchmark ranks given answers. A user reads what the model writes.",
        blocks=blocks,
    )
