"""Plot of what more answer tokens bring: what is kept along each training that was measured at marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import along_trainings
from layercut.report import words
from layercut.report.comparison import about, kept, kept_table
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.table import Column

if TYPE_CHECKING:
    from layercut.runs.directory import RunFolder


def tokens(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> Figure | None:
    """A panel for each task and readout, a line for each training; None where none was measured at marks."""
    trainings = along_trainings(cuts)
    on_lines = {run for points in trainings.values() for run, _ in points}
    drawn = [
        row
        for row in rows
        if row.is_headline and row.kept_share is not None and not row.uncut_is_at_chance and row.cut.name in on_lines
    ]
    if not drawn:
        return None
    colours = charts.colours([*trainings])
    seeds = sorted({run.settings.get("seed", 0) for run in cuts})
    pairs = dict.fromkeys((row.task, row.readout) for row in drawn)
    return Figure(
        name="tokens",
        title="Score kept above chance, against the answer tokens of a training",
        panels=[
            _panel({row.cut.name: row for row in drawn if (row.task, row.readout) == pair}, trainings, colours)
            for pair in pairs
        ],
        caption=(
            "Each line is one training, measured while it went on; its first point is the model that it began with. "
            "100 % is the original model, 0 % is guessing. Bars: 95 % intervals over the same items "
            f"(n {charts.num_items(drawn)} in each panel, seed {', '.join(map(str, seeds))}). Points of one line are "
            "not independent."
        ),
        columns=min(2, len(pairs)),
        legend=[Key(label=name, colour=colour) for name, colour in colours.items()],
        table=kept_table(
            "tokens",
            "What is kept along the trainings, with 95 % intervals",
            drawn,
            [Column("answer tokens", lambda row: _learned(row.cut.name, trainings), numeric=True)],
        ),
    )


def _learned(run: str, trainings: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    return next(f"{num:,}" for points in trainings.values() for name, num in points if name == run)


def _panel(
    rows: Mapping[str, ComparisonRow],
    trainings: Mapping[str, Sequence[tuple[str, int]]],
    colours: Mapping[str, str],
) -> Panel:
    points: list[dict[str, Any]] = []
    for training, stages in trainings.items():
        for run, num in stages:
            if run in rows and (share := rows[run].kept_share) is not None:
                tooltip = {"answer tokens": f"{num:,}", **about(rows[run])}
                points.append(charts.marked(charts.ends(share), training, part=training, about=tooltip, x=num / 1000))
    ticks = sorted({num / 1000 for stages in trainings.values() for _, num in stages})
    first = next(iter(rows.values()))
    spec = charts.curves(
        points,
        x_title="answer tokens learned from, thousands",
        y_title="kept, %",
        x=(-0.04 * ticks[-1], 1.04 * ticks[-1]),
        y=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours=dict(colours),
        marks=((100, "uncut"), (0, "guessing")),
        height=210,
    )
    said = "; ".join(f"{name} keeps {kept(row.kept_share)}" for name, row in rows.items())
    readout = words.readout_words(first.readout)
    return Panel(spec=spec, title=f"{first.task}: {readout}", label=f"Line plot. {first.task}, {readout}: {said}.")
