"""All seeds of one plan together: the retention over all of them, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.paired import Comparison, compare_paired
from layercut.report import words
from layercut.report.series import places
from layercut.report.table import Column, Part, Table
from layercut.report.words import readout_name
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.intervals import Estimate
    from layercut.runs.directory import RunFolder


class OverSeeds(NamedTuple):
    """One metric of one task and readout, over all seeds of a plan."""

    rows: tuple[ComparisonRow, ...]
    """Of each seed, in the order of the study."""
    values: Comparison
    """Of all of them: a value per item and seed, with the item, or what it shares with others, as the cluster."""

    @property
    def first(self) -> ComparisonRow:
        """The row of the first seed."""
        return self.rows[0]


def over_seeds(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow], *, seed: int = 0) -> list[OverSeeds]:
    """Rows of runs that differ in their seed alone, put together; none where every plan has one seed.

    An item's values under all seeds keep together in the resampling, with the original model's, so the interval is over
    items, given these seeds.

    Args:
        cuts: the runs of the pruned models.
        rows: of compare_runs.
        seed: of the resampling.
    """
    where = {name: place[:3] for name, place in places(cuts, rows).items()}
    groups: dict[tuple[object, ...], list[ComparisonRow]] = {}
    for row in rows:
        groups.setdefault((where[row.cut.name], row.task, row.readout, row.metric), []).append(row)
    return [
        OverSeeds(tuple(group), _together(group, seed))
        for group in groups.values()
        if len({row.cut.seed for row in group}) == len(group) > 1
    ]


def _together(rows: Sequence[ComparisonRow], seed: int) -> Comparison:
    uncut: list[float] = []
    cut: list[float] = []
    clusters: list[str] = []
    for row in rows:
        assert row.items is not None, "rows of compare_runs carry their items"
        uncut += row.items.uncut
        cut += row.items.cut
        clusters += row.items.clusters or row.items.ids
    return compare_paired(uncut, cut, chance=rows[0].chance, seed=seed, clusters=clusters)


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
            Column("retention", lambda one: words.retained(one.values.retention)),
            Column("above chance", lambda one: words.retained(one.values.retention_above_chance)),
        ],
        rows=found,
    )
    return [*text, table, ""]
