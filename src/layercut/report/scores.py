"""Scores: a matrix of plans and tasks, every number, and means over tasks and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layercut.evidence.comparison import ComparisonRow, arm_of, left_out
from layercut.evidence.study import are_thinner, over_seeds
from layercut.report import words
from layercut.report.comparison import means_table, score_table
from layercut.report.elements import Block, Details, Section, bullet_list
from layercut.report.runs import scores_legend, scores_table
from layercut.report.table import Styled, Table, text_columns
from layercut.text import count_of, escape_inline, number_text, p_value, with_interval

if TYPE_CHECKING:
    from layercut.evidence.study import StudyResults
    from layercut.report.source import Source


def evaluation_section(source: Source) -> Section:
    """Make the section of the scores of one run."""
    rows = source.value
    removed = words.removal_words(arm_of(source.runs[0]))
    lead = f"{removed}, {words.items_words([row['n'] for row in rows], [row['limit'] for row in rows])}."
    return Section(name="scores", title="Scores", lead=lead, blocks=(scores_table(rows), scores_legend(rows)))


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
        f"corrected for all {count_of(len(rows), 'row')}; findings use it. -/+: items lost and gained.",
        *words.how_made(rows),
        *dict.fromkeys(
            f"{row.task} ({row.readout}, {row.metric}): no retention, because {row.values.refused}"
            for row in rows
            if row.values.refused
        ),
    ]
    plans = count_of(len(study.cuts), "plan")
    blocks: list[Block] = [
        _matrix(rows, [pair for pair in pairs if pair in above]),
        *means_table(rows),
        bullet_list(map(escape_inline, notes)),
        Details(summary=f"Every number of {plans}: a line for each metric", blocks=(score_table(rows),)),
        Details(summary="What the findings and numbers mean", blocks=(bullet_list(map(escape_inline, meaning)),)),
    ]
    return Section(
        name="scores",
        title="Scores of every plan",
        short="Scores",
        lead="What each plan keeps of the score above chance, in %, with its 95 % interval, p, and p after Holm's "
        "correction.",
        blocks=blocks,
    )


def _matrix(rows: Sequence[ComparisonRow], pairs: Sequence[tuple[str, str]]) -> Table:
    main = {(row.cut.name, row.task, row.readout): row for row in rows if row.is_headline}
    plans: Mapping[str, ComparisonRow] = {row.cut.name: row for row in rows}
    by_size = are_thinner(rows)
    lines = [
        [
            name,
            row.cut.label if by_size else str(row.cut.depth),
            *(_cell(main[name, *pair]) if (name, *pair) in main else Styled("not measured", "faint") for pair in pairs),
        ]
        for name, row in plans.items()
    ]
    what = "removed" if by_size else "layers"
    return Table(
        name="matrix",
        caption="Plans and tasks, coloured by finding" + ("" if by_size else "; layers: how many are removed"),
        columns=text_columns("plan", what, *map(": ".join, pairs), numeric=["layers"]),
        rows=lines,
        matrix=True,
        download=score_table(list(main.values())),
    )


def _cell(row: ComparisonRow) -> Styled:
    """The finding with what is kept, or the difference where the score has no share above chance; and its tests."""
    kept, tests = row.kept_share, f"p {p_value(row.values.p_value)}, Holm {p_value(row.p_value)}"
    if row.uncut_is_at_chance or kept is None:
        change = with_interval(row.values.difference, share=row.is_share, sign=True)
        return replace(words.finding_cell(row.finding, "faint"), below=(f"difference {change}", tests))
    interval = with_interval(kept).partition(" ")[2]
    text = f"{number_text(kept.value)} % {row.finding}"
    return replace(words.finding_cell(row.finding), text=text, below=(interval, tests))


def seeds_section(source: Source) -> Section | None:
    """Make the section of plans that were measured under several seeds; None where every plan has one."""
    study: StudyResults = source.value
    groups = over_seeds(study.cuts, study.rows, seed=study.seed)
    if not groups:
        return None
    readout = words.readout_name([group.first for group in groups])
    lines = []
    for group in groups:
        first, values = group.first, group.values
        shown: dict[str, Any] = {"share": first.is_share, "digits": 1}
        alone = [row.values.cut.value for row in group.rows]
        start = [first.cut.plan or first.cut.name, first.task, readout(first), str(len(group.rows)), f"{first.n:,}"]
        scores_of_both = [with_interval(value, **shown) for value in (values.uncut, values.cut)]
        ends = [number_text(value, **shown) for value in (min(alone), max(alone))]
        difference = with_interval(values.difference, **shown, sign=True)
        kept = [words.retained_words(value) for value in (values.retention, values.retention_above_chance)]
        lines.append([*start, *scores_of_both, *ends, difference, *kept])
    heads = ("plan", "task", "readout", "seeds", "items", "uncut", "cut", "lowest", "highest")
    columns = text_columns(
        *heads, "difference", "retention", "above chance", numeric=("seeds", "items", "lowest", "highest")
    )
    return Section(
        name="seeds",
        title="All seeds together",
        short="Seeds",
        lead="Plans that were measured under several seeds. "
        f"{words.scores_in(group.first.is_share for group in groups)}. "
        "Intervals are over items, given these seeds: an item's answers under all seeds are resampled together. "
        "lowest, highest: the pruned model's score under one seed.",
        blocks=(Table(name="seeds", caption="All seeds together", columns=columns, rows=lines),),
    )
