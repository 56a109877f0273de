"""All seeds of one plan together: the retention over all of them, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.paired import Comparison, compare_paired
from layercut.report import words
from layercut.report.elements import Part, Table
from layercut.report.series import places
from layercut.report.words import readout_name
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
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
    lines = []
    for one in found:
        row, values, share = one.first, one.values, one.first.is_share
        scores = sorted(row.values.cut.value for row in one.rows)
        cells = [
            row.cut.plan or row.cut.name,
            row.task,
            readout_name(row, [other.first for other in found]),
            str(len(one.rows)),
            f"{row.n:,}",
            with_interval(values.uncut, share=share, digits=1),
            with_interval(values.cut, share=share, digits=1),
            number(scores[0], share=share, digits=1),
            number(scores[-1], share=share, digits=1),
            with_interval(values.difference, share=share, digits=1, sign=True),
            "n/a" if values.retention is None else with_interval(values.retention),
            "n/a" if values.retention_above_chance is None else with_interval(values.retention_above_chance),
        ]
        lines.append(cells)
    head = ["plan", "task", "readout", "seeds", "items", "uncut", "cut", "lowest", "highest", "difference", "retention"]
    table = Table(
        name="seeds",
        caption="All seeds together",
        head=[*head, "above chance"],
        rows=lines,
        numeric=frozenset({3, 4, 7, 8}),
    )
    return [*text, table, ""]
