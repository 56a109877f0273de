"""Vega-Lite specifications of plots.

Colours are CSS variables, so that one picture serves light, dark and print. Values are in percent where a scale says
so. A value beyond a scale is drawn at its end, as a triangle with the number.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.evidence.uses import is_written
from layercut.report.elements import Panel
from layercut.text import HasInterval

if TYPE_CHECKING:
    from layercut.evidence.paired import PairedRow

UNCUT = "var(--ink)"
SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
KEPT_LOW, KEPT_HIGH = -30.0, 140.0
"""Retention is drawn between these, in percent."""
LEVELS = ((100, "uncut"), (0, "guessing"))
"""Of retention, with their names."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_LETTERS = 22  # most letters in a line of a name at an axis
Spec = dict[str, Any]
"""A part of a specification."""
_CONFIG: Spec = {
    "background": "transparent",
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
_MARK: Spec = {"field": "mark", "type": "nominal"}  # numbers of a mark's series and point, for layercut.report.picture
_HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"


def readout_colour(readout: str) -> str:
    """One colour for answers that are written, one for those that are compared by likelihood."""
    return "var(--written)" if is_written(readout) else "var(--ranked)"


def readout_dash(readout: str) -> Sequence[int]:
    """Distinguishes readouts of one colour."""
    return DASHES[1] if readout == "chain" else DASHES[0]


def series_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in their order."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(dict.fromkeys(names))}


def percent_point(estimate: HasInterval) -> dict[str, float | str | None]:
    """Value and interval in percent as a point of a plot, inside the scale's ends.

    ``top`` and ``bottom`` are the scale's end where the interval or the value goes beyond it, ``beyond`` is the value
    in words where that does.
    """
    low, high = KEPT_LOW, KEPT_HIGH
    # An infinite end is drawn just beyond the scale; one that is not known has no place.
    percents = [
        None if end is None or math.isnan(end) else round(min(max(100 * end, low - 1), high + 1), 2)
        for end in (estimate.low, estimate.value, estimate.high)
    ]
    known = [end for end in percents if end is not None]
    below, value, above = (None if end is None else min(max(end, low), high) for end in percents)
    return {
        "y": value,
        "low": below,
        "high": above,
        "top": high if any(end > high for end in known) else None,
        "bottom": low if any(end < low for end in known) else None,
        "beyond": None if percents[1] == value else f"{100 * estimate.value:.0f} %",
    }


def num_items(rows: Sequence[PairedRow]) -> str:
    """Number of items of each row, or the least and the most: ``40 to 1,319``."""
    counts = sorted({row.n for row in rows})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))


def axis_reach(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a scale that holds the values, with a margin."""
    margin = 0.05 * (max(values) - min(values) or 1.0)
    return min(values) - margin, max(values) + margin


def chart_point(value: Sequence[Any], series: str, scale: float = 1.0, **more: Any) -> Spec:
    """A point by its value, lower and upper end, which may be None; ``scale`` multiplies them. See ``marked_point``."""
    y, low, high = (None if end is None else scale * end for end in value[:3])
    return marked_point({"y": y, "low": low, "high": high}, series, **more)


def marked_point(
    value: Mapping[str, Any],
    series: str,
    *,
    part: str = "",
    hollow: bool = False,
    about: Mapping[str, str] | None = None,
    **place: Any,
) -> Spec:
    """A point of ``curve_chart``, or with a ``name`` in place of ``x`` one of ``forest_chart``.

    Args:
        value: ``y``, ``low``, ``high`` (the last two may be None; see ``percent_point`` for more).
        series: name of its colour.
        part: an unbroken stretch of the series.
        hollow: whether it is not filled.
        about: name to text, for hover.
        place: its ``x`` or ``name``.
    """
    look = {"series": series, "part": part or series, "hollow": hollow, "about": dict(about or {})}
    return {**place, **value, **look}


def kept_share_panel(
    points: Sequence[Spec], title: str, label: str, *, x_title: str, x: tuple[float, float], **look: Any
) -> Panel:
    """A panel of what is kept above chance against something else; ``look``: of ``curve_chart``."""
    y = (KEPT_LOW, KEPT_HIGH)
    spec = curve_chart(points, x_title=x_title, x=x, y=y, **{"y_title": "kept, %", "marks": LEVELS, **look})
    return Panel(spec=spec, title=title, label=label)


def curve_chart(
    points: Sequence[Mapping[str, Any]],
    *,
    x_title: str,
    y_title: str,
    x: tuple[float, float],
    y: tuple[float, float],
    colours: Mapping[str, str],
    dashes: Mapping[str, Sequence[int]] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    height: int = 230,
    ticks: Sequence[float] = (),
    bands: bool = False,
) -> Spec:
    """Lines with the intervals of their points, over x.

    Args:
        points: of ``marked_point``. A line joins those of a ``part``.
        x: ends of the scale; so is ``y``.
        marks: levels with their names, as dashed lines with the names on the axis.
        ticks: of x; chosen to fit where there are none.
        bands: whether intervals are bands and not bars: for many points of few series.
    """
    named = "".join(f"datum.value == {level:g} ? '{text} ' + datum.label : " for level, text in marks)
    y_axis = _axis(y_title, y, tickCount=6, **({"labelExpr": f"{named}datum.label"} if marks else {}))
    own_ticks: Spec = {"values": list(ticks)} if ticks else {"tickMinStep": 1, "tickCount": 8}
    place = {
        "x": {**_axis(x_title, x, grid=False, **own_ticks), "field": "x"},
        "color": _of_series(colours, list(colours.values())),
        "description": _MARK,
    }
    of_part = {"detail": {"field": "part", "type": "nominal"}}
    encoding = {**place, "y": {**y_axis, "field": "y"}}
    interval = {**place, "y": {**y_axis, "field": "low"}, "y2": {"field": "high"}}
    dash = _of_series(colours, [list((dashes or {}).get(name, (1, 0))) for name in colours])
    band = _layer("area", {**interval, **of_part}, only=_HAS_INTERVAL, opacity=0.16, clip=True)
    levels = {"values": [{"level": level} for level, _ in marks]}
    layers = [
        *(
            [{**_layer("rule", {"y": {**y_axis, "field": "level"}}, strokeDash=[4, 4]), "data": levels}]
            if marks
            else []
        ),
        band if bands else _layer("rule", interval, only=_HAS_INTERVAL, strokeWidth=1.4, clip=True),
        _layer("line", {**encoding, **of_part, "strokeDash": dash}, strokeWidth=2, clip=True),
        *_point_layers(encoding, y_axis, "y"),
    ]
    return _frame(points, height, list(colours), layers)


def forest_chart(
    points: Sequence[Mapping[str, Any]],
    *,
    x_title: str,
    x: tuple[float, float],
    colours: Mapping[str, str],
    marks: Sequence[tuple[float, str]] = (),
    ticks: Mapping[str, float] | None = None,
) -> Spec:
    """A line of points with their intervals for each name, from left to right.

    Args:
        points: of ``marked_point``. Within a line, series are in the order of ``colours``.
        marks: levels with their names, as dashed lines.
        ticks: the level of guessing, by name of the line.
    """
    points = [{**point, "name": _wrapped(point["name"])} for point in points]
    names, series = list(dict.fromkeys(str(point["name"]) for point in points)), list(colours)
    axis = {"grid": False, "ticks": False, "domain": False, "labelPadding": 6, "labelExpr": "split(datum.label, '\\n')"}
    row = {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": axis}
    value = _axis(x_title, x, tickCount=6)
    place = {
        "y": row,
        "yOffset": {**_of_series(series), "sort": series, "scale": {"domain": series, "paddingOuter": 0.5}},
        "color": _of_series(series, list(colours.values())),
        "description": _MARK,
    }
    layers: list[Spec] = []
    if marks:
        levels = {"values": [{"level": level, "text": text} for level, text in marks]}
        at = {"x": {**value, "field": "level"}}
        name = {**at, "y": {"value": 0}, "text": {"field": "text"}}
        layers.append({**_layer("rule", at, strokeDash=[4, 4]), "data": levels})
        layers.append({**_layer("text", name, baseline="bottom", dy=-3), "data": levels})
    if ticks:
        guessing = {"x": {**value, "field": "x"}, "y": row}
        look: Spec = {"color": "var(--soft)", "thickness": 1.5, "bandSize": 14, "strokeDash": [2, 2]}
        of_names = {"values": [{"name": _wrapped(name), "x": x} for name, x in ticks.items()]}
        layers.append({**_layer("tick", guessing, **look), "data": of_names})
    encoding = {**place, "x": {**value, "field": "y"}}
    interval = {**place, "x": {**value, "field": "low"}, "x2": {"field": "high"}}
    layers += [
        _layer("rule", interval, only=_HAS_INTERVAL, strokeWidth=1.5, clip=True),
        *_point_layers(encoding, value, "x"),
    ]
    return _frame(points, max(60, len(names) * (14 * len(series) + 12)), series, layers)


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


def _point_layers(encoding: Spec, axis: Spec, way: str) -> list[Spec]:
    """Filled and hollow points, and a large invisible one over each that is easier to hit; a triangle where an interval
    goes on beyond the scale of ``way``, and the number where the value itself does."""
    look: Spec = {"size": 46, "clip": False, "strokeWidth": 1.8, "opacity": 1, "filled": True}
    hollow = {name: channel for name, channel in encoding.items() if name != "color"} | {"stroke": encoding["color"]}
    text = {**encoding, "text": {"field": "beyond"}}
    middle = sum(encoding["x"]["scale"]["domain"]) / 2
    x, dy = ("x", {"expr": "datum.y > 0 ? 9 : -8"}) if way == "y" else ("y", 1)
    triangles = [
        _layer(
            "point", {**encoding, way: {**axis, "field": end}}, only=f"isValid(datum.{end})",
            shape=f"triangle-{shape}", size=44, filled=True, opacity=1,
        )
        for end, shape in (("top", "up" if way == "y" else "right"), ("bottom", "down" if way == "y" else "left"))
    ]  # fmt: skip
    numbers = [
        _layer("text", text, only=f"isValid(datum.beyond) && datum.{x} {side} {middle:g}", align=align, dx=dx, dy=dy,
               fontSize=11)
        for side, align, dx in ((">", "right", -7), ("<=", "left", 7))
    ]  # fmt: skip
    return [
        *triangles,
        *numbers,
        _layer("point", encoding, only="!isValid(datum.beyond) && !datum.hollow", **look),
        _layer("point", hollow, only="!isValid(datum.beyond) && datum.hollow", **look, fill="var(--page)"),
        _layer("point", encoding, size=420, opacity=0, filled=True),
    ]


def _wrapped(name: str) -> str:
    """A name in lines that fit on the left of a plot on a phone."""
    return "\n".join(textwrap.wrap(name, _LETTERS, break_long_words=False)) or name


def _frame(points: Sequence[Mapping[str, Any]], height: int, series: Sequence[str], layers: Sequence[Spec]) -> Spec:
    """A specification around layers; ``usermeta`` has what hovering over a point shows, by the point's number."""
    values = [
        {**{key: value for key, value in point.items() if key != "about"}, "mark": f"{series.index(name)} {number}"}
        for number, (point, name) in enumerate((point, point["series"]) for point in points)
    ]
    hover = ["\n".join(f"{name}: {text}" for name, text in point["about"].items()) for point in points]
    return {
        "$schema": SCHEMA,
        "width": "container",  # until layercut.report.picture sets one
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "usermeta": {"series": list(series), "hover": hover},
        "data": {"values": values},
        "layer": list(layers),
    }
