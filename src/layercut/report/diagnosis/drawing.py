"""What the plots of all diagnostics share: colours, saving, and a line of points for each measure."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from layercut.runs.atomic import write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from layercut.runs.diagnosis import Diagnosis, Interval, MeasureRow

# Okabe and Ito, "Color Universal Design" (2008); markers differ as well, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("s", "^", "D", "v", "P", "o")
UNCUT, GREY = "#000000", "#777777"
WIDTH, DPI = 8.0, 150
"""Inches and dots per inch: 1,200 pixels, made to be shown at 800."""
FEWEST = 5
"""Items of a group that has a line of its own, or intervals, in a picture; smaller ones are in the table alone."""
_STEP = 0.15


class Look(NamedTuple):
    """How a model is drawn."""

    colour: str
    marker: str


def look(place: int) -> Look:
    """Of the cut model at this place."""
    return Look(COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)])


def save(draw: Callable[[], Figure | None], path: Path) -> bool:
    """Write a picture as PNG, if there is anything to draw; the same numbers give the same bytes with the same
    matplotlib."""
    with style.context("default"):  # a user's matplotlibrc must not change a report
        picture = draw()
        if picture is None:
            return False
        drawn, written = io.BytesIO(), io.BytesIO()
        picture.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    # 256 colours are enough for all of them, and a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(256).save(written, format="png", optimize=True)
    write_bytes(path, written.getvalue())
    return True


def canvas(height: float) -> Figure:
    """An empty picture."""
    picture = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(picture)
    return picture


def legend(picture: Figure, arms: Sequence[str], *, uncut: bool = True, chance: bool = False) -> float:
    """Say above a picture which model is which; gives the inches that this takes."""
    handles = []
    if uncut:
        handles.append(Line2D([], [], color=UNCUT, marker="o", markerfacecolor="white", linewidth=1.4, label="uncut"))
    for place, name in enumerate(arms):
        colour, marker = look(place)
        label = textwrap.shorten(name, 30, placeholder="...")
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=1.4, label=label))
    if chance:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.5, label="guessing"))
    columns = max(1, min(len(handles), 4))
    rows = -(-len(handles) // columns)
    height = float(picture.get_size_inches()[1])
    picture.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.04 / height), ncols=columns, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return 0.12 + 0.22 * rows


def tidy(axes: Axes, grid: str = "both") -> None:
    """A quiet frame."""
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def shares(found: Diagnosis) -> list[MeasureRow]:
    """The measures that are shares of items, of groups that are not too small for a picture."""
    return [row for row in found["rows"] if row["unit"] == "share" and (not row["group"] or row["n"] >= FEWEST)]


def label(row: MeasureRow) -> str:
    """Measure and group in few words."""
    return f"{row['measure']}: {row['group']}" if row["group"] else row["measure"]


def forest(
    rows: Sequence[MeasureRow], arms: Sequence[str], axis: str, *, scale: float = 100.0, below: float = 0.0
) -> Figure:
    """A line for each measure and group: the uncut model open, the cut ones filled, with their intervals.

    Args:
        rows: of one unit; in their order from top to bottom.
        arms: names of the cut models, in their order.
        axis: what the horizontal axis shows.
        scale: values, of 0 to 1, are multiplied by it; 100 for shares in percent.
        below: inches that are left free for other panels.
    """
    names = list(dict.fromkeys(label(row) for row in rows))
    step = _STEP * (len(arms) + 1) + 0.12
    height = 0.75 + step * len(names) + 0.22 * (1 + len(arms) // 4) + below
    picture = canvas(height)
    above = legend(picture, arms, chance=any(row["chance"] is not None for row in rows))
    left = min(0.42, 0.03 + 0.0088 * max(map(len, names)))
    bottom = 0.48 + below
    axes = picture.add_axes((left, bottom / height, 0.97 - left, (height - bottom - above) / height))
    for index, name in enumerate(names):
        mine = [row for row in rows if label(row) == name]
        offsets = [(place - len(arms) / 2) * _STEP / step for place in range(len(arms) + 1)]
        _point(axes, mine[0]["uncut"], index + offsets[0], Look(UNCUT, "o"), scale, filled=False)
        if mine[0]["chance"] is not None:
            axes.vlines(scale * mine[0]["chance"], index - 0.42, index + 0.42, color=GREY, linestyle=":", linewidth=1.5)
        for row in mine:
            place = list(arms).index(row["arm"])
            _point(axes, row["cut"], index + offsets[place + 1], look(place), scale)
    axes.set_yticks(range(len(names)), [textwrap.shorten(name, 44, placeholder="...") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.03 * scale, 1.03 * scale)
    axes.set_xlabel(axis, fontsize=9)
    tidy(axes, "x")
    axes.tick_params(axis="y", length=0)
    return picture


def by_step(axes: Axes, rows: Sequence[MeasureRow], arms: Sequence[str], axis: str, *, scale: float = 100.0) -> None:
    """A curve for each model over groups that have an order, such as depths; with intervals where no group is tiny."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    models = ["uncut", *arms]
    smallest, largest = (pick(row["n"] for row in rows) for pick in (min, max))
    for place, name in enumerate(models):
        mine = [row for row in rows if row["arm"] == (arms[0] if place == 0 else name)]
        values = [row["uncut" if place == 0 else "cut"] for row in mine]
        shown = Look(UNCUT, "o") if place == 0 else look(place - 1)
        x = [groups.index(row["group"]) + 0.1 * (place - (len(models) - 1) / 2) for row in mine]
        for at, (_, low, high) in zip(x, values, strict=True):
            if low is not None and high is not None and smallest >= FEWEST:
                axes.vlines(at, scale * low, scale * high, color=shown.colour, linewidth=0.9, alpha=0.5)
        axes.plot(
            x, [scale * (value[0] or 0.0) for value in values], color=shown.colour, marker=shown.marker, markersize=4,
            linewidth=1.2, markerfacecolor="white" if place == 0 else shown.colour,
        )  # fmt: skip
    if rows[0]["chance"] is not None:
        axes.axhline(scale * rows[0]["chance"], color=GREY, linestyle=":", linewidth=1.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    several = f"{smallest} to {largest}" if smallest < largest else str(largest)
    axes.set_xlabel(f"{axis}; {several} items each", fontsize=9)
    tidy(axes, "y")


def _point(axes: Axes, value: Interval, y: float, shown: Look, scale: float, *, filled: bool = True) -> None:
    middle, low, high = value
    assert middle is not None, "a measure has a value"
    if low is not None and high is not None:
        axes.hlines(y, scale * low, scale * high, color=shown.colour, linewidth=1.3)
    face = shown.colour if filled else "white"
    axes.plot(
        [scale * middle], [y], marker=shown.marker, color=shown.colour, markerfacecolor=face, markersize=5, linestyle=""
    )
