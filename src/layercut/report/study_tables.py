"""Tables of a study that put several scores together: of tasks and of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.evidence.means import form_means
from layercut.report import words
from layercut.report.table import Column, Part, Table
from layercut.report.words import readout_name, retained
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.intervals import Estimate
    from layercut.evidence.study import OverSeeds


def form_mean_table(rows: Sequence[ComparisonRow]) -> Table | None:
    """A line for each run and form, in %; None where no run has two tasks of one form."""
    found = form_means(rows)
    if not found:
        return None
    return Table(
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
        rows=found,
    )


def form_mean_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """A line for each form of one run's rows.

    ``mean of 7 ranked tasks, n 448: uncut 50, cut 45, difference -6 [-9, -2]; retention 88 [82, 96], above chance ...``
    """
    lines = []
    for one in form_means(rows):
        mean = one.mean
        kept = f"retention {retained(mean.retention)}, above chance {retained(mean.retention_above_chance)}"
        scores = f"uncut {number(mean.uncut)}, cut {number(mean.cut)}"
        difference = with_interval(mean.difference, sign=True)
        lines.append(f"{one.words}: {scores}, difference {difference}; {kept}")
    return lines


def seeds_section(found: Sequence[OverSeeds]) -> list[Part]:
    """Markdown of the whole section; nothing where every plan has one seed."""
    if not found:
        return []
    text: list[Part] = [
        "## All seeds together",
        "",
        f"Plans that were measured under several seeds. {words.scores_in(one.first.is_share for one in found)}. "
        "Intervals are over items, given these seeds: "
        "an item's answers under all seeds are resampled together. lowest, highest: the pruned model's score under one "
        "seed.",
        "",
    ]
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
    return [*text, table, ""]
