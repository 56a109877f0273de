"""The picture of a sweep: a line for each task and readout over the layers, inside the band of its noise.

A panel for each task, one above the other over the same layers, so that holes at the same layer stand in one column.
The band is the paired 95 % interval of every point. Drawn without pyplot, like plots.py.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from layercut.report.words import readout_order, readout_words
from layercut.runs.atomic import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from layercut.report.sweep import Curve, Sweep, SweepRow

# Of Okabe and Ito, "Color Universal Design" (2008); markers differ as well, for print in grey.
_LOOKS = {
    "rank": ("#0072B2", "o"),
    "gold": ("#56B4E9", "v"),
    "token": ("#E69F00", "P"),
    "short": ("#D55E00", "s"),
    "chain": ("#009E73", "^"),
}
_OTHER = ("#CC79A7", "D")
_LINE, _WORDS = "#777777", "#555555"
_WIDTH, _DPI = 8.0, 200
"""Inches and dots per inch: 1,600 pixels, made to be shown at 800."""
_PANEL, _ABOVE, _BELOW = 1.75, 0.3, 0.55
"""Inches of a panel with its title, above the panels and below them."""
_LEAST, _MOST = -50.0, 200.0
"""Retention is drawn between these; what lies beyond is an arrow at the edge."""


def plot(sweep: Sweep, path: Path) -> None:
    """Write the picture as PNG. The same sweep gives the same bytes with the same matplotlib."""
    with style.context("default"):  # a user's matplotlibrc must not change a report
        buffer = io.BytesIO()
        figure(sweep).savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def figure(sweep: Sweep) -> Figure:
    """The picture itself."""
    tasks = list(dict.fromkeys(curve.task for curve in sweep.curves))
    total = _ABOVE + _BELOW + _PANEL * len(tasks)
    picture = Figure(figsize=(_WIDTH, total))
    FigureCanvasAgg(picture)
    low, high = _range([row for curve in sweep.curves for row in curve.rows])
    first: Axes | None = None
    for place, task in enumerate(tasks):
        bottom = _BELOW + _PANEL * (len(tasks) - 1 - place)
        axes = picture.add_axes((0.095, bottom / total, 0.83, (_PANEL - 0.42) / total), sharex=first, sharey=first)
        first = first or axes
        _panel(axes, [curve for curve in sweep.curves if curve.task == task])
        axes.set_title(textwrap.shorten(task, 80, placeholder="..."), loc="left", fontsize=10, fontweight="bold")
        axes.tick_params(labelbottom=place == len(tasks) - 1, labelsize=9)
    assert first is not None, "a sweep has at least one task"
    first.set_xlim(sweep.layers[0] - 0.6, sweep.layers[-1] + 0.6)
    first.set_ylim(low, high)
    first.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    picture.axes[-1].set_xlabel("skipped decoder layer", fontsize=10)
    picture.text(
        0.012, (_BELOW + _PANEL * len(tasks) / 2 - 0.2) / total, "retention above chance in %", rotation=90,
        ha="left", va="center", fontsize=10,
    )  # fmt: skip
    _legend(picture, sweep.curves, total)
    return picture


def _panel(axes: Axes, curves: Sequence[Curve]) -> None:
    for y, text in ((100.0, "uncut"), (0.0, "guessing")):
        axes.axhline(y, color=_LINE, linewidth=1, linestyle="--", zorder=1)
        axes.annotate(
            text, (1, y), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points", ha="left",
            va="center", fontsize=8, color=_LINE,
        )  # fmt: skip
    axes.grid(axis="both", color="#EEEEEE", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for curve in curves:
        if not curve.refused:
            _draw(axes, curve)
    refused = [f"{readout_words(curve.readout)}: n/a, {curve.refused}" for curve in curves if curve.refused]
    if refused:
        lines = [part for text in refused for part in textwrap.wrap(text, 95)]
        axes.text(
            0.5, 0.5 if len(refused) == len(curves) else 0.06, "\n".join(lines), transform=axes.transAxes, ha="center",
            va="center" if len(refused) == len(curves) else "bottom", fontsize=8, color=_WORDS, zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
        )  # fmt: skip


def _draw(axes: Axes, curve: Curve) -> None:
    colour, marker = _LOOKS.get(curve.readout, _OTHER)
    for run in unbroken(curve.rows):
        layers = [row.layer for row in run]
        values = [_percent(row, "value") for row in run]
        lows = [_inside(_percent(row, "low")) for row in run]
        highs = [_inside(_percent(row, "high")) for row in run]
        if len(run) > 1:
            axes.fill_between(layers, lows, highs, color=colour, alpha=0.16, linewidth=0, zorder=2)
        else:  # a band over one layer has no width
            axes.vlines(layers, lows, highs, color=colour, alpha=0.3, linewidth=3, zorder=2)
        axes.plot(layers, [_inside(value) for value in values], color=colour, linewidth=1.4, zorder=3)
        for layer, value in zip(layers, values, strict=True):
            shape = "v" if value < _LEAST else "^" if value > _MOST else marker
            axes.plot([layer], [_inside(value)], marker=shape, color=colour, markersize=3.6, linestyle="", zorder=3)


def unbroken(rows: Sequence[SweepRow]) -> list[list[SweepRow]]:
    """Neighbouring layers that have a value; a line must not run over layers that were not skipped."""
    runs: list[list[SweepRow]] = []
    for row in rows:
        if row.kept_share is None:
            continue
        if runs and row.layer == runs[-1][-1].layer + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _percent(row: SweepRow, end: str) -> float:
    """Value or interval end; not a number where the items say nothing about the spread, which leaves the band out."""
    assert row.kept_share is not None
    found = getattr(row.kept_share, end)
    return math.nan if found is None else 100 * float(found)


def _inside(value: float) -> float:
    return value if math.isnan(value) else min(max(value, _LEAST), _MOST)


def _range(rows: Sequence[SweepRow]) -> tuple[float, float]:
    ends = [_percent(row, end) for row in rows if row.kept_share is not None for end in ("value", "low", "high")]
    known = [_inside(value) for value in ends if not math.isnan(value)]
    return min([-8.0, *(value - 4 for value in known)]), max([112.0, *(value + 4 for value in known)])


def _legend(picture: Figure, curves: Sequence[Curve], total: float) -> None:
    drawn = sorted({curve.readout for curve in curves}, key=readout_order)
    handles: list[Line2D | Patch] = []
    for name in drawn:
        colour, marker = _LOOKS.get(name, _OTHER)
        label = readout_words(name)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.4, label=label))
    handles.append(Patch(facecolor="#BBBBBB", alpha=0.6, label="paired 95 % interval"))
    picture.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.03 / total), ncols=len(handles), frameon=False,
        fontsize=10, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
