"""Score and retention of every task and readout in every model: the figure of report.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.evidence.comparison import ComparisonRow
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.words import readout_order, readout_words

UNCUT = "uncut"


def scores(rows: Sequence[ComparisonRow]) -> Figure | None:
    """Scores with the level of guessing on the left, retention above chance on the right; a line for each task and
    readout, a colour for each plan. Only headline metrics that are shares; None without one.
    """
    drawn = [row for row in rows if row.is_headline and row.is_share]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(row.task for row in drawn))
    drawn.sort(key=lambda row: (tasks.index(row.task), readout_order(row.readout)))
    plans = list(dict.fromkeys(row.cut.name for row in rows if row in drawn))
    colours = {UNCUT: charts.UNCUT} | charts.colours(plans)
    found: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    ticks: dict[str, float] = {}
    for row in drawn:
        name = f"{row.task}: {readout_words(row.readout)}"
        if not any(point["name"] == name for point in found):
            found.append({**charts.ends(row.values.uncut, low=0, high=100), **_of(name, UNCUT, hollow=True)})
        found.append({**charts.ends(row.values.cut, low=0, high=100), **_of(name, row.cut.name)})
        if row.chance is not None:
            ticks[name] = round(100 * row.chance, 2)
        share = row.kept_share
        nothing = {"y": None, "low": None, "high": None}
        kept.append({**(nothing if share is None else charts.ends(share)), **_of(name, row.cut.name)})
    marks = ((0.0, "guessing"), (100.0, UNCUT))
    reach = (charts.KEPT_LOW, charts.KEPT_HIGH)
    guessing = [{"name": name, "x": level} for name, level in ticks.items()]
    left = charts.forest(found, x_title="score, %", x=(0, 100), colours=colours, ticks=guessing)
    right = charts.forest(kept, x_title="kept above chance, %", x=reach, colours=colours, marks=marks)
    return Figure(
        name="scores",
        title="Score and retention of every task and readout",
        panels=[
            Panel(spec=left, title="Score; grey: guessing", label="Plot of scores."),
            Panel(spec=right, title="Kept above chance", label="Plot of retention."),
        ],
        caption="Scores and retention with 95 % intervals.",
        legend=[Key(label=name, colour=colour, hollow=name == UNCUT) for name, colour in colours.items()],
    )


def _of(name: str, series: str, *, hollow: bool = False) -> dict[str, Any]:
    return {"name": name, "series": series, "hollow": hollow, "about": {}}
