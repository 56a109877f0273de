"""One picture of a study: what every task and readout scores, and which share of it is kept.

A forest plot: a line per task and readout, ranked readouts beside the generated ones of the same task. On the left the
scores with the level of guessing, on the right the retention above chance. Drawn without pyplot, so that it neither
needs a display nor touches a caller's figures.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layercut.report.words import is_written, readout_order, readout_words
from layercut.runs.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from layercut.evidence.intervals import Estimate
    from layercut.report.compare import ComparisonRow

# Okabe and Ito, "Color Universal Design" (2008): told apart under all common kinds of colour blindness. Yellow is left
# out, it is too light for thin lines; markers differ as well, for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_UNCUT, _CHANCE, _SHADE = "#000000", "#777777", "#F0F0F0"
_WIDTH, _DPI = 8.0, 200
"""Inches and dots per inch: 1,600 pixels, made to be shown at 800."""
_STEP = 0.17
"""Inches from one model to the next within a line."""
_MOST_LETTERS = 28
"""Longer names of tasks are cut in the plot; the tables have them whole."""
_LEAST, _MOST = -50.0, 200.0
"""Retention is drawn between these; what lies beyond is an arrow at the edge."""


class _Line(NamedTuple):
    """One task and readout."""

    label: str
    generated: bool
    rows: Mapping[str, ComparisonRow]
    """By cut run."""


def plot(rows: Sequence[ComparisonRow], path: Path) -> None:
    """Write the picture as PNG. The same rows give the same bytes with the same matplotlib.

    Args:
        rows: from compare_runs; only the main metric of a task and readout is drawn, and only scores between 0 and 1.
        path: of the PNG; written whole, or not at all.
    """
    with style.context("default"):  # a user's matplotlibrc must not change a report
        picture = figure(rows)
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def can_plot(rows: Sequence[ComparisonRow]) -> bool:
    """Whether there is anything to draw."""
    return bool(_lines(rows))


def figure(rows: Sequence[ComparisonRow]) -> Figure:
    """The picture itself."""
    lines = _lines(rows)
    names = list(dict.fromkeys(row.cut.name for line in lines for row in line.rows.values()))
    height = max(1, len(names) + 1) * _STEP + 0.16
    handles = _legend(names, any(line.generated for line in lines))
    columns = max(1, min(len(handles), int(_WIDTH / max(0.5 + 0.082 * len(str(h.get_label())) for h in handles))))
    above, below = 0.35 + 0.22 * -(-len(handles) // columns), 0.55
    total = above + below + height * len(lines)
    picture = Figure(figsize=(_WIDTH, total))
    FigureCanvasAgg(picture)
    margin = 0.008 + 0.0096 * max(len(part) for line in lines for part in line.label.split("\n"))
    width = (0.94 - margin) / 2
    left = picture.add_axes((margin, below / total, width, height * len(lines) / total))
    right = picture.add_axes((margin + width + 0.04, below / total, width, height * len(lines) / total), sharey=left)
    for index, line in enumerate(lines):
        if line.generated:
            for axes in (left, right):
                axes.axhspan(index - 0.5, index + 0.5, color=_SHADE, zorder=0, linewidth=0)
        _draw_scores(left, index, line, names, height)
        _draw_retention(right, index, line, names, height)
    _finish(left, "score in %, with 95 % intervals", lines)
    _finish(right, "retention above chance in %", lines)
    left.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=10)
    left.set_ylim(len(lines) - 0.5, -0.5)
    left.set_xlim(-3, 103)
    right.tick_params(labelleft=False)
    low, high = right.get_xlim()
    right.set_xlim(max(low, _LEAST), min(max(high, 110.0), _MOST))
    for x, text in ((0.0, "guessing"), (100.0, "uncut")):
        right.axvline(x, color=_CHANCE, linewidth=1, linestyle="--", zorder=1)
        right.annotate(
            text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points", ha="center",
            fontsize=9, color=_CHANCE,
        )  # fmt: skip
    picture.legend(
        handles=[handle for column in range(columns) for handle in handles[column::columns]],  # fill it row by row
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.05 / total),
        ncols=columns,
        frameon=False,
        fontsize=10,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    return picture


def _lines(rows: Sequence[ComparisonRow]) -> list[_Line]:
    drawn = [row for row in rows if row.is_headline and row.is_share]
    tasks = dict.fromkeys(row.task for row in drawn)
    lines = []
    for task in tasks:
        readouts = sorted({row.readout for row in drawn if row.task == task}, key=readout_order)
        for readout in readouts:
            by_run = {row.cut.name: row for row in drawn if (row.task, row.readout) == (task, readout)}
            name = task if len(task) <= _MOST_LETTERS else task[: _MOST_LETTERS - 3] + "..."
            lines.append(_Line(f"{name}\n{readout_words(readout)}", is_written(readout), by_run))
    return lines


def _offset(place: int, count: int, height: float) -> float:
    """Where the model of a place stands within its line, in lines."""
    return (place - (count - 1) / 2) * _STEP / height


def _draw_scores(axes: Axes, index: int, line: _Line, names: Sequence[str], height: float) -> None:
    count = len(names) + 1
    first = next(iter(line.rows.values()))
    if first.chance is not None:
        axes.vlines(
            100 * first.chance, index - 0.42, index + 0.42, color=_CHANCE, linestyle=":", linewidth=1.5, zorder=1
        )
    _point(axes, first.values.uncut, index + _offset(0, count, height), _UNCUT, "o", filled=False)
    for place, name in enumerate(names):
        if name in line.rows:
            y = index + _offset(place + 1, count, height)
            _point(axes, line.rows[name].values.cut, y, *_look(place))


def _draw_retention(axes: Axes, index: int, line: _Line, names: Sequence[str], height: float) -> None:
    count = len(names) + 1
    for place, name in enumerate(names):
        kept = line.rows[name].kept_share if name in line.rows else None
        if kept is not None:
            _point(axes, kept, index + _offset(place + 1, count, height), *_look(place))
    if all(row.kept_share is None for row in line.rows.values()):
        behind = {"facecolor": _SHADE if line.generated else "white", "edgecolor": "none", "pad": 2}
        text = "n/a: uncut is not above chance"
        axes.text(50, index, text, ha="center", va="center", fontsize=9, color=_CHANCE, bbox=behind, zorder=2)


def _look(place: int) -> tuple[str, str]:
    return _COLOURS[place % len(_COLOURS)], _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]


def _point(axes: Axes, estimate: Estimate, y: float, colour: str, marker: str, *, filled: bool = True) -> None:
    """A value with its interval in percent; an arrow at the edge where the value lies outside the axis."""
    x = 100 * estimate.value
    if x > _MOST or x < _LEAST:
        x, marker = (_MOST, ">") if x > _MOST else (_LEAST, "<")
    elif estimate.low is not None and estimate.high is not None:
        axes.hlines(y, max(100 * estimate.low, _LEAST), min(100 * estimate.high, _MOST), color=colour, linewidth=1.4)
    face = colour if filled else "white"
    axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=face, markersize=5.5, linestyle="", zorder=3)


def _finish(axes: Axes, label: str, lines: Sequence[_Line]) -> None:
    axes.set_xlabel(label, fontsize=10)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    tasks = [line.label.split("\n")[0] for line in lines]
    for index in range(1, len(lines)):
        if tasks[index] != tasks[index - 1]:
            axes.axhline(index - 0.5, color="#BBBBBB", linewidth=0.8, zorder=1)


def _legend(names: Sequence[str], any_generated: bool) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_UNCUT, marker="o", markerfacecolor="white", linewidth=1.4, label="uncut")
    ]
    for place, name in enumerate(names):
        colour, marker = _look(place)
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=1.4, label=name))
    handles.append(Line2D([], [], color=_CHANCE, linestyle=":", linewidth=1.5, label="guessing"))
    if any_generated:
        handles.append(Patch(facecolor=_SHADE, edgecolor="#CCCCCC", label="generated"))
    return handles
