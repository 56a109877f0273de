"""Tables of a study that put several scores together: of tasks, of seeds, and of answers by their length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.evidence.depth import FEWEST_OF_EACH, FEWEST_SOLVED
from layercut.evidence.means import form_means
from layercut.report import words
from layercut.report.elements import Part, Table
from layercut.report.words import readout_name
from layercut.text.numbers import number, with_interval

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.study import OverSeeds

SHORTEST = 3
"""Tokens: where half of the answers come earlier, as words and letters do, a slope over their length says nothing."""


def form_mean_table(rows: Sequence[ComparisonRow]) -> Table | None:
    """A line for each run and form, in %; None where no run has two tasks of one form."""
    found = form_means(rows)
    if not found:
        return None
    return Table(
        name="task-means",
        caption="Ranked tasks together, and written tasks together: means over tasks, in %",
        head=["plan", "form", "tasks", "n", "uncut", "cut", "difference", "retention", "above chance"],
        rows=[
            [run, form, str(len(mean.tasks)), f"{mean.difference.n:,}", number(mean.uncut, digits=1)]
            + [number(mean.cut, digits=1), with_interval(mean.difference, digits=1, sign=True)]
            + ["n/a" if one is None else with_interval(one) for one in (mean.retention, mean.retention_above_chance)]
            for run, form, mean in found
        ],
        numeric=frozenset({2, 3, 4, 5}),
    )


def form_mean_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """A line for each form of one run's rows.

    ``mean of 7 ranked tasks, n 448: uncut 50, cut 45, difference -6 [-9, -2]; retention 88 [82, 96], above chance ...``
    """
    lines = []
    for one in form_means(rows):
        mean = one.mean
        kept = [
            f"{name} {'n/a' if share is None else with_interval(share)}"
            for name, share in (("retention", mean.retention), ("above chance", mean.retention_above_chance))
        ]
        scores = f"uncut {number(mean.uncut)}, cut {number(mean.cut)}"
        difference = with_interval(mean.difference, sign=True)
        lines.append(f"{one.words}: {scores}, difference {difference}; {', '.join(kept)}")
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


def depth_section(rows: Sequence[ComparisonRow]) -> list[Part]:
    """The whole section, a line per task, generated readout and cut run; nothing where there is none."""
    measured = [row for row in rows if row.is_headline and row.depth and (row.depth.median_depth or 0) >= SHORTEST]
    if not measured:
        return []
    lines = []
    for row in measured:
        depth = row.depth
        assert depth is not None
        kept = number(depth.num_kept / depth.num_solved, digits=1) if depth.num_solved else "-"
        cells = [
            row.task,
            row.readout,
            row.cut.name,
            f"{depth.num_solved:,}",
            kept,
            "-" if depth.median_depth is None else f"{depth.median_depth:g}",
            f"n/a: {depth.refused}" if depth.slope is None else with_interval(depth.slope, digits=1, sign=True),
        ]
        lines.append(cells)
    table = Table(
        name="long-answers",
        caption="Are long answers lost more often?",
        head=["task", "readout", "run", "n solved", "kept", "median depth", "slope"],
        rows=lines,
        numeric=frozenset({3, 4, 5}),
    )
    return [
        "## Are long answers lost more often?",
        "",
        "Items that the original model solves, by depth: the number of tokens that it wrote before its answer. "
        "kept: share of these that the pruned model solves too, in %. slope: change of kept, in points, for each "
        "doubling of 1 + depth (least squares, 95 % interval by HC3). Below 0, longer answers are lost more often.",
        "",
        table,
        "",
        f"No slope is computed for fewer than {FEWEST_SOLVED} solved items, or fewer than {FEWEST_OF_EACH} kept or "
        "lost.",
        "",
    ]
