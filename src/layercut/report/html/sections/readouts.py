"""Readouts of the same items side by side: the retention by each one, and the items on which they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import StudyResults
from layercut.report import words
from layercut.report.elements import Block, Details, Figure, Key, Panel, Section, Table
from layercut.report.figures import charts
from layercut.report.html.source import Source
from layercut.report.readouts import discordance_table, discordances
from layercut.report.rows import about, kept, raw

MOST_PANELS = 4
"""Plans that have a panel each."""


def readouts(source: Source) -> Section | None:
    """None where no task has two readouts."""
    study = source.study
    if study is None:
        return None
    main = [row for row in study.rows if row.is_headline]
    several = {row.task for row in main if len({other.readout for other in main if other.task == row.task}) > 1}
    rows = [row for row in main if row.task in several]
    if not rows:
        return None
    found: list[Block] = []
    drawn = [row for row in rows if row.kept_share is not None and not row.uncut_is_at_chance]
    if drawn:
        figure = _figure(study, drawn)
        is_long = len(study.cuts) > MOST_PANELS
        found.append(Details(summary=figure.title, blocks=(figure,)) if is_long else figure)
    apart = discordances([study.uncut, *study.cuts], rows)
    if apart:
        table = discordance_table(apart)
        found.append(Details(summary=table.caption, blocks=(table,)))
    return Section(
        name="readouts",
        title="The same items, scored by likelihood and by generation",
        short="Readouts",
        lead="A likelihood benchmark ranks given answers. A user reads what the model writes.",
        blocks=tuple(found),
    )


def _figure(study: StudyResults, rows: Sequence[ComparisonRow]) -> Figure:
    names = [run.name for run in study.cuts if any(row.cut.name == run.name for row in rows)]
    used = sorted({row.readout for row in rows}, key=words.readout_order)
    colours = {words.readout_words(name): charts.readout_colour(name) for name in used}
    hollow = {name: name not in ("rank", "short", "chain") for name in used}
    by_task = len(names) > MOST_PANELS  # then a panel for each task, with a line for each plan
    tasks = list(dict.fromkeys(row.task for row in rows))
    panels = [
        _panel([row for row in rows if (row.task if by_task else row.cut.name) == name], colours, hollow, by_task)
        for name in (tasks if by_task else names)
    ]
    caption = (
        "Share of the score above chance that each readout keeps, with 95 % intervals over the same items. Blue: "
        "answers compared by likelihood. Orange: answers that the model writes. The farther orange lies left of blue, "
        "the more a likelihood benchmark overstates the pruned model."
    )
    return Figure(
        name="readouts",
        title="Kept above chance, by readout",
        panels=panels,
        caption=caption,
        legend=[
            Key(label=words.readout_words(name), colour=charts.readout_colour(name), hollow=hollow[name])
            for name in used
        ],
        table=Table(
            name="readouts",
            caption="What each readout keeps, with 95 % intervals",
            head=["plan", "task", "readout", "n", "kept above chance, %"],
            rows=[
                [row.cut.name, row.task, row.readout, f"{row.n:,}", kept(row.kept_share).removesuffix(" %")]
                for row in rows
            ],
            numeric=frozenset({3}),
            raw=raw(rows),
        ),
    )


def _panel(rows: Sequence[ComparisonRow], colours: dict[str, str], hollow: dict[str, bool], by_task: bool) -> Panel:
    points: list[dict[str, Any]] = [
        {
            "name": row.cut.name if by_task else row.task,
            **charts.ends(row.kept_share),
            "series": words.readout_words(row.readout),
            "hollow": hollow[row.readout],
            "about": about(row),
        }
        for row in rows
        if row.kept_share is not None
    ]
    spec = charts.forest(
        points,
        x_title="kept above chance, %",
        x=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours=colours,
        marks=((100, "uncut"), (0, "guessing")),
    )
    said = "; ".join(
        f"{row.cut.name}, {row.task}, {words.readout_words(row.readout)}: {kept(row.kept_share)}" for row in rows
    )
    title = rows[0].task if by_task else rows[0].cut.name
    return Panel(spec=spec, title=title, label=f"Plot of points with intervals. {said}.")
