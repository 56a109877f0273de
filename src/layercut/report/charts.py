"""Vega-Lite specifications of plots; colours are CSS variables, so that one picture serves light, dark and print."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from layercut.evidence.uses import is_written
from layercut.report.elements import Panel
from layercut.text import HasInterval

SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
KEPT_LOW, KEPT_HIGH = -30.0, 140.0
"""Retention is drawn between these, in percent, or as far as there are points."""
_FAR = 1e6
LEVELS = ((100, "uncut"), (0, "guessing"))
"""Of retention, with their names."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
Spec = dict[str, Any]
"""A part of a specification."""
_CONFIG: Spec = {
    "background": "transparent",
    "aria": False,  # no names of series as labels, which might hold characters that XML has not
    "font": "Liberation Sans",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--soft)", "titleFontWeight": "normal", "labelFontSize": 12,
        "titleFontSize": 12, "gridColor": "var(--grid)", "domainColor": "var(--line)", "tickColor": "var(--line)",
        "labelLimit": 150,
    },
    "text": {"color": "var(--soft)", "fontSize": 11},
    "rule": {"color": "var(--line)"},
}  # fmt: skip
_HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"


def readout_colour(readout: str) -> str:
    """One colour for answers that are written, one for those that are compared by likelihood."""
    return "var(--written)" if is_written(readout) else "var(--ranked)"


def readout_dash(readout: str) -> Sequence[int]:
    """Distinguishes readouts of one colour."""
    return DASHES[1] if readout == "chain" else DASHES[0]


def percent_point(estimate: HasInterval) -> dict[str, float | None]:
    """Value and interval in percent as a point of a plot; what goes beyond the scale is cut off at its frame."""
    ends = (("low", estimate.low), ("y", estimate.value), ("high", estimate.high))
    # JSON has no infinity.
    return {
        name: None if end is None or math.isnan(end) else round(min(max(100 * end, -_FAR), _FAR), 2)
        for name, end in ends
    }


def kept_share_panel(
    points: Sequence[Mapping[str, Any]],
    title: str,
    label: str,
    *,
    x_title: str,
    x: tuple[float, float],
    colours: Mapping[str, str],
    dashes: Mapping[str, Sequence[int]],
    ticks: Sequence[float] = (),
    bands: bool = False,
) -> Panel:
    """Lines of what is kept above chance over x, with the intervals of their points, as ``bands`` for many points.

    A point has ``x``, ``y``, ``low``, ``high`` (the last two may be None), ``hollow``, the ``series`` that it has the
    colour of, and the ``part`` that a line joins. ``label`` describes the panel to readers who do not see it.
    """
    values = [point["y"] for point in points]
    y = (min(KEPT_LOW, *values, 0.0), max(KEPT_HIGH, *values, 0.0))
    named = "".join(f"datum.value == {level:g} ? '{text} ' + datum.label : " for level, text in LEVELS)
    y_axis = _axis("kept, %", y, tickCount=6, labelExpr=f"{named}datum.label")
    own_ticks: Spec = {"values": list(ticks)} if ticks else {"tickMinStep": 1, "tickCount": 8}
    place = {
        "x": {**_axis(x_title, x, grid=False, **own_ticks), "field": "x"},
        "color": _of_series(colours, list(colours.values())),
    }
    of_part = {"detail": {"field": "part", "type": "nominal"}}
    encoding = {**place, "y": {**y_axis, "field": "y"}}
    interval = {**place, "y": {**y_axis, "field": "low"}, "y2": {"field": "high"}}
    dash = _of_series(colours, [list(dashes[name]) for name in colours])
    band = _layer("area", {**interval, **of_part}, only=_HAS_INTERVAL, opacity=0.16, clip=True)
    hollow = {name: channel for name, channel in encoding.items() if name != "color"} | {"stroke": encoding["color"]}
    look: Spec = {"size": 46, "clip": False, "strokeWidth": 1.8, "opacity": 1, "filled": True}
    layers = [
        {
            **_layer("rule", {"y": {**y_axis, "field": "level"}}, strokeDash=[4, 4]),
            "data": {"values": [{"level": level} for level, _ in LEVELS]},
        },
        band if bands else _layer("rule", interval, only=_HAS_INTERVAL, strokeWidth=1.4, clip=True),
        _layer("line", {**encoding, **of_part, "strokeDash": dash}, strokeWidth=2, clip=True),
        _layer("point", encoding, only="!datum.hollow", **look),
        _layer("point", hollow, only="datum.hollow", **look, fill="var(--page)"),
    ]
    spec = {
        "$schema": SCHEMA,
        "width": "container",  # until layercut.report.charts sets one
        "height": 220,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "data": {"values": list(points)},
        "layer": layers,
    }
    return Panel(spec=spec, title=title, label=label)


def _axis(title: str, ends: tuple[float, float], **axis: Any) -> Spec:
    """A quantitative position, without its field."""
    scale = {"domain": list(ends), "nice": False}
    return {"type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _of_series(names: Iterable[str], looks: Sequence[Any] = ()) -> Spec:
    """A channel by the series of a point, with a look for each series."""
    scale = {"domain": list(names), "range": looks}
    return {"field": "series", "type": "nominal", "legend": None, "scale": scale}


def _layer(kind: str, encoding: Mapping[str, Any], *, only: str = "", **mark: Any) -> Spec:
    """One kind of mark for the points that pass a filter."""
    kept = {"transform": [{"filter": only}]} if only else {}
    return {"mark": {"type": kind, **mark}, **kept, "encoding": dict(encoding)}


logger = logging.getLogger(__name__)

NARROW, WIDE = 350, (1150, 560)
"""Pixels of a panel on a phone, and on a wide screen by the number of columns."""
_ADDRESS_SPACE = 80 * 2**30  # bytes that vl-convert's V8 reserves, about; with less it ends the whole process


def draw_picture(panel: Panel, name: str, *, columns: int = 2) -> list[str]:
    """A panel as SVG for a phone and for a wide screen.

    Colours are CSS variables. ``name`` must be unique on the page: anchors inside the SVG begin with it.
    """
    sizes = {"narrow": NARROW, "wide": WIDE[columns > 1]} if _can_draw() else {}
    return [_svg(panel.spec, f"{name}-{size}", size, width) for size, width in sizes.items()]


@cache
def _can_draw() -> bool:
    """Return False, and say so once, where address space is limited to less than drawing reserves (ulimit -v)."""
    try:
        import resource
    except ImportError:  # Windows
        return True
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit >= _ADDRESS_SPACE:
        return True
    logger.warning(
        "no pictures: drawing takes some 70 GB of address space, and `ulimit -v` allows less. All numbers are in "
        "the tables; without that limit the same command draws."
    )
    return False


def _svg(spec: dict[str, Any], name: str, size: str, width: int) -> str:
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg({**spec, "width": width})
    # vl-convert numbers its anchors over its whole life.
    numbers = {anchor: place for place, anchor in enumerate(dict.fromkeys(re.findall(r'(?<= id=")[^"]+', svg)))}
    svg = re.sub(r'(?<= id=")[^"]+|(?<=url\(#)[^)]+', lambda anchor: f"{name}-{numbers[anchor[0]]}", svg)
    svg = re.sub(r' (?:role|aria-[a-z]+|xmlns[:a-z]*)="[^"]*"', "", svg)  # the plot around it has a label
    return svg.replace('class="marks"', f'class="{size}"', 1)
