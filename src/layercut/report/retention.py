"""Retention, drawn by size or number of removed layers: ranked tasks on the left, written ones on the right."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import Place, StudyResults, are_thinner, places_of_runs
from layercut.evidence.uses import is_written
from layercut.report import charts, words
from layercut.report.comparison import NUM_ITEMS
from layercut.report.elements import Column, Figure, Key, Panel, Section, Table
from layercut.report.source import Source
from layercut.runs.directory import RunFolder

_READ_BOTH = (
    "Left: given answers are ranked by likelihood. Right: the model writes its answer. Where a line stays high on the "
    "left and falls on the right, the model still ranks the right answer first but no longer writes it. "
)
"""Caption of a figure that has panels on both sides."""
_APART = 0.09
"""Between the points of neighbouring lines at one depth, in steps of depth, so that their bars do not overlap."""
Looks = Mapping[str, tuple[str, Sequence[int]]]
"""Colours and dashes of lines, by name."""


def retention_section(source: Source) -> Section | None:
    """Make the section of retention; None without a score that has one."""
    study: StudyResults = source.value
    if (figure := retention_figure(study.cuts, study.rows)) is None:
        return None
    return Section(
        name="retention",
        title="Retention by size" if are_thinner(study.rows) else "Retention by number of removed layers",
        short="Retention",
        lead="Does a model that still ranks right answers also still write them?" if figure.columns > 1 else "",
        blocks=(figure,),
    )


def retention_figure(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> Figure | None:
    """A panel for each task and readout, a line for each criterion and healing; None without a row to draw."""
    names = {run.name for run in cuts}
    rows = [row for row in rows if row.is_headline and row.cut.name in names]
    drawn = [row for row in rows if row.kept_share is not None and not row.uncut_is_at_chance]
    if not drawn:
        return None
    where = places_of_runs(cuts, rows)
    series = dict.fromkeys(where[run.name].series for run in cuts)
    styles = itertools.cycle(itertools.product(charts.DASHES, charts.SERIES))
    looks = {name: (colour, dash) for name, (dash, colour) in zip(series, styles, strict=False)}
    pairs = list(dict.fromkeys((row.task, row.readout) for row in drawn))
    is_both = len({is_written(readout) for _, readout in pairs}) > 1
    by_size = are_thinner(rows)
    silent = [words.task_and_readout(row.task, row.readout) for row in rows if (row.task, row.readout) not in pairs]
    counts = sorted({row.n for row in drawn})
    num_items = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    caption = (
        "Share of the score above chance that remains after pruning: 100 % is the original model, 0 % is guessing. "
        f"{_READ_BOTH * is_both}Bars: 95 % intervals over the same items (n {num_items} in each panel); points of one "
        "depth are set side by side. Lines only connect measured points."
    )
    if silent:
        named = ", ".join(dict.fromkeys(silent))
        caption += f" Not drawn, because the original model is not significantly above guessing: {named}."
    columns = [
        Column("plan", lambda row: row.cut.name),
        Column("line", lambda row: where[row.cut.name].series),
        Column("removed", lambda row: row.cut.label if by_size else row.cut.amount),
        Column("task", lambda row: row.task),
        Column("readout", lambda row: row.readout),
        NUM_ITEMS,
        Column("kept above chance, %", lambda row: words.retained_words(row.kept_share)),
        Column("finding", lambda row: row.finding),
    ]
    return Figure(
        name="retention",
        title="Score kept above chance, against the "
        + ("share of removed parameters" if by_size else "number of removed layers"),
        panels=[
            _retention_panel([row for row in drawn if (row.task, row.readout) == pair], where, looks, by_size, is_both)
            for pair in pairs
        ],
        caption=caption,
        columns=min(2, len(pairs)),
        legend=[Key(label=name, colour=look[0], dash=" ".join(map(str, look[1]))) for name, look in looks.items()],
        table=Table(name="retention", caption="What is kept, with 95 % intervals", columns=columns, rows=drawn),
    )


def _retention_panel(
    rows: Sequence[ComparisonRow], where: Mapping[str, Place], looks: Looks, by_size: bool, is_both: bool
) -> Panel:
    points: list[charts.Spec] = []
    depths = sorted({0, *(place.depth for place in where.values())})
    gap = min((deep - shallow for shallow, deep in itertools.pairwise(depths)), default=1)
    apart = gap * min(_APART, 0.5 / len(looks))
    for part in dict.fromkeys(where[row.cut.name].part for row in rows):
        own = sorted((row for row in rows if where[row.cut.name].part == part), key=lambda row: row.cut.turn)
        series = where[own[0].cut.name].series
        # Lines are set side by side around the depth, in the order of the legend.
        aside = apart * (list(looks).index(series) - (len(looks) - 1) / 2)
        whole = {"y": 100, "low": 100, "high": 100}
        points.append({"x": 0, **whole, "series": series, "part": part, "hollow": True})
        for row in own:
            assert row.kept_share is not None
            point, x = charts.percent_point(row.kept_share), round(where[row.cut.name].depth + aside, 3)
            points.append({"x": x, **point, "series": series, "part": part, "hollow": False})
    task, readout = rows[0].task, rows[0].readout
    written = is_written(readout)
    values = "; ".join(f"{row.cut.name}, {row.task}: {words.kept_words(row.kept_share)}" for row in rows)
    panel = charts.kept_share_panel(
        points,
        f"{task}: {'written, ' if written else ''}{words.readout_words(readout)}",
        f"Line plot. {words.readout_words(readout)}. {values}.",
        x_title="parameters removed, %" if by_size else "decoder layers removed",
        x=(-0.4 * gap, max(1, depths[-1]) + 0.4 * gap),
        colours={name: look[0] for name, look in looks.items()},
        dashes={name: look[1] for name, look in looks.items()},
        ticks=depths,
    )
    return replace(panel, column=1 + written) if is_both else panel
