"""Vega-Lite specifications of plots.

Colours are CSS variables, so that one picture serves light, dark and print. Values are in percent where a scale says
so. A value beyond a scale is drawn at its end, as a triangle with the number.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.evidence.uses import is_written

if TYPE_CHECKING:
    from layercut.evidence.intervals import Estimate

RANKED, WRITTEN_COLOUR, UNCUT = "var(--ranked)", "var(--written)", "var(--ink)"
SERIES = tuple(f"var(--series-{number})" for number in range(1, 7))
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
KEPT_LOW, KEPT_HIGH = -30.0, 140.0
"""Retention is drawn between these, in percent."""
CONTAINER = "container"
"""Width of a plot until layercut.report.figures.picture sets one."""

_LETTERS = 22
"""Of a line of a name at an axis."""
Spec = dict[str, Any]
"""A part of a specification."""

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_CONFIG: Spec = {
    "background": "transparent",
    "font": "Liberation Sans",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelLimit": 150,
    },
    "text": {"color": "var(--soft)", "fontSize": 11},
    "rule": {"color": "var(--line)"},
}


def readout_colour(readout: str) -> str:
    """One colour for answers that are written, one for those that are compared by likelihood."""
    return WRITTEN_COLOUR if is_written(readout) else RANKED


def readout_dash(readout: str) -> Sequence[int]:
    """Distinguishes readouts of one colour."""
    return {"chain": DASHES[1], "gold": DASHES[2], "token": DASHES[1]}.get(readout, DASHES[0])


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in their order."""
    return {name: SERIES[place % len(SERIES)] for place, name in enumerate(names)}


def percent(value: float | None) -> float | None:
    """In percent, with two digits; None for what is not known or has no end."""
    return None if value is None or not math.isfinite(value) else round(100 * value, 2)


def ends(estimate: Estimate, *, low: float = KEPT_LOW, high: float = KEPT_HIGH) -> dict[str, float | str | None]:
    """Value and interval in percent as a point of a plot, inside the scale's ends.

    ``top`` and ``bottom`` are the scale's end where the interval or the value goes beyond it, ``beyond`` is the value
    in words where that does.
    """

    def inside(value: float | None) -> float | None:
        return None if value is None else min(max(value, low), high)

    below, value, above = percent(estimate.low), percent(estimate.value), percent(estimate.high)
    if estimate.high is not None and math.isinf(estimate.high):
        above = high + 1
    if estimate.low is not None and math.isinf(estimate.low):
        below = low - 1
    known = [end for end in (below, value, above) if end is not None]
    return {
        "y": inside(value),
        "low": inside(below),
        "high": inside(above),
        "top": high if any(end > high for end in known) else None,
        "bottom": low if any(end < low for end in known) else None,
        "beyond": None if value is None or low <= value <= high else f"{value:.0f} %",
    }


def point(x: float, value: Sequence[Any], series: str, scale: float = 1.0) -> Spec:
    """A point of ``curves`` by its value, lower and upper end, which may be None; ``scale`` multiplies them."""
    y, low, high = (None if end is None else scale * end for end in value[:3])
    plain = {"series": series, "part": series, "hollow": False, "about": {}}
    return {"x": x, "y": y, "low": low, "high": high, **plain}


def curves(
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
    scale: str = "linear",
    ticks: Sequence[float] = (),
    bands: bool = False,
) -> dict[str, Any]:
    """Lines with the intervals of their points.

    Args:
        points: with ``x``, ``y``, ``low``, ``high`` (the last two may be None; see ``ends`` for more), ``series``,
            ``part`` (an unbroken stretch of a series), ``hollow`` (whether its point is not filled) and ``about`` (name
            to text, for hover).
        x_title: of the axis.
        y_title: of the axis.
        x: ends of the scale.
        y: ends of the scale.
        colours: of each series.
        dashes: of each series.
        marks: levels with their names, as dashed lines with the names on the axis.
        height: of the plot, in pixels.
        scale: of y, ``linear`` or ``log``.
        ticks: of x; chosen to fit where there are none.
        bands: whether intervals are bands and not bars: for many points of few series.
    """
    names = list(colours)
    colour: Spec = {"field": "series", "type": "nominal", "legend": None}
    colour["scale"] = {"domain": names, "range": list(colours.values())}
    detail = [{"field": "part", "type": "nominal"}]
    dash = {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": names, "range": [list((dashes or {}).get(name, (1, 0))) for name in names]},
    }
    y_axis: Spec = {"field": "y", "type": "quantitative", "title": y_title}
    y_axis["scale"] = {"domain": list(y), "nice": False, "type": scale}
    y_axis["scale"] |= {} if scale == "log" else {"zero": False}
    named = " : ".join(f"datum.value == {level:g} ? '{text} ' + datum.label" for level, text in marks)
    y_axis["axis"] = {"tickCount": 6}
    y_axis["axis"] |= {"labelExpr": f"{named} : datum.label"} if marks else {}
    x_axis: Spec = {"field": "x", "type": "quantitative", "title": x_title}
    x_axis["scale"] = {"domain": list(x), "nice": False, "zero": False}
    x_axis["axis"] = {"grid": False, **({"values": list(ticks)} if ticks else {"tickMinStep": 1, "tickCount": 8})}
    levels = {"values": [{"level": level} for level, _ in marks]}
    level = {
        "field": "level",
        "type": "quantitative",
        "scale": y_axis["scale"],
        "axis": y_axis["axis"],
        "title": y_title,
    }
    lines = (
        [{"data": levels, "mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"y": level}}] if marks else []
    )
    place = {"x": x_axis, "y": {**y_axis, "field": "low"}, "y2": {"field": "high"}, "color": colour}
    interval: Spec = {"transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}]}
    if bands:
        interval |= {"mark": {"type": "area", "opacity": 0.16, "clip": True}, "encoding": {**place, "detail": detail}}
    else:
        interval |= {"mark": {"type": "rule", "strokeWidth": 1.4, "clip": True}, "encoding": place}
    line: Spec = {
        "mark": {"type": "line", "strokeWidth": 2, "clip": True},
        "encoding": {"x": x_axis, "y": y_axis, "color": colour, "strokeDash": dash, "detail": detail},
    }
    encoding = {"x": x_axis, "y": y_axis, "color": colour}
    layers = [interval, line, *_beyond_layers(encoding, y_axis, "y", ("up", "down")), *_point_layers(encoding)]
    return _frame(points, height, names, [*lines, *_labelled(layers)])


def forest(
    points: Sequence[Mapping[str, Any]],
    *,
    x_title: str,
    x: tuple[float, float],
    colours: Mapping[str, str],
    marks: Sequence[tuple[float, str]] = (),
    ticks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A line of points with their intervals for each name.

    Args:
        points: with ``name`` (of the line), ``y``, ``low``, ``high`` (as ``curves`` has them, here from left to right),
            ``series``, ``hollow`` and ``about``.
        x_title: of the axis.
        x: ends of the scale.
        colours: of each series; within a line, series stand in this order.
        marks: levels with their names, as dashed lines.
        ticks: ``name`` and ``x`` of the level of guessing, for single lines.
    """
    points = [{**point, "name": _wrapped(point["name"])} for point in points]
    names = list(dict.fromkeys(str(point["name"]) for point in points))
    series = list(colours)
    colour: Spec = {"field": "series", "type": "nominal", "legend": None}
    colour["scale"] = {"domain": series, "range": list(colours.values())}
    offset = {"field": "series", "type": "nominal", "sort": series, "scale": {"domain": series, "paddingOuter": 0.5}}
    row: Spec = {"field": "name", "type": "nominal", "sort": names, "title": None}
    row |= {"axis": {"grid": False, "ticks": False, "domain": False, "labelPadding": 6}}
    row["axis"] |= {"labelExpr": "split(datum.label, '\\n')"}
    value: Spec = {"field": "y", "type": "quantitative", "title": x_title, "scale": {"domain": list(x), "nice": False}}
    value["axis"] = {"tickCount": 6}
    layers: list[Spec] = []
    if marks:
        levels = {"values": [{"level": level, "text": text} for level, text in marks]}
        at = {**value, "field": "level"}
        layers = [
            {"data": levels, "mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"x": at}},
            {
                "data": levels,
                "mark": {"type": "text", "baseline": "bottom", "dy": -3},
                "encoding": {"x": at, "y": {"value": 0}, "text": {"field": "text"}},
            },
        ]
    if ticks:
        layers.append(
            {
                "data": {"values": [{**tick, "name": _wrapped(tick["name"])} for tick in ticks]},
                "mark": {
                    "type": "tick",
                    "color": "var(--soft)",
                    "thickness": 1.5,
                    "bandSize": 14,
                    "strokeDash": [2, 2],
                },
                "encoding": {"x": {**value, "field": "x"}, "y": row},
            }
        )
    place = {"y": row, "yOffset": offset, "color": colour}
    interval: Spec = {
        "mark": {"type": "rule", "strokeWidth": 1.5, "clip": True},
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "encoding": {"x": {**value, "field": "low"}, "x2": {"field": "high"}, **place},
    }
    encoding = {"x": value, **place}
    drawn = [interval, *_beyond_layers(encoding, value, "x", ("right", "left")), *_point_layers(encoding)]
    height = max(60, len(names) * (14 * len(series) + 12))
    return _frame(points, height, series, [*layers, *_labelled(drawn)])


def heat_map(cells: Sequence[Mapping[str, float]], *, x_title: str, y_title: str, high: float) -> dict[str, Any]:
    """Squares coloured from 0 to ``high``; cells have ``x``, ``y`` and ``value``."""
    axis = {"labelOverlap": True, "tickCount": 6, "labelAngle": 0, "ticks": False, "domain": False}
    return {
        **_frame([{**cell, "about": {}} for cell in cells], 230, ()),
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "x", "type": "ordinal", "title": x_title, "axis": axis},
            "y": {"field": "y", "type": "ordinal", "title": y_title, "sort": "descending", "axis": axis},
            "color": {
                "field": "value",
                "type": "quantitative",
                "scale": {"scheme": "viridis", "domain": [0, high]},
                "legend": {
                    "title": None, "orient": "right", "gradientLength": 150, "gradientThickness": 10, "tickCount": 5,
                    "labelColor": "var(--soft)",
                },
            },
        },
    }  # fmt: skip


def _point_layers(encoding: Mapping[str, Any]) -> list[Spec]:
    """Filled and hollow points, and a large invisible one over each that is easier to hit."""
    point = {"type": "point", "size": 46, "clip": False, "strokeWidth": 1.8, "opacity": 1, "filled": True}
    inside = "!isValid(datum.beyond)"
    hollow = {**{key: value for key, value in encoding.items() if key != "color"}, "stroke": encoding["color"]}
    return [
        {"mark": point, "transform": [{"filter": f"{inside} && !datum.hollow"}], "encoding": dict(encoding)},
        {
            "mark": {**point, "fill": "var(--page)"},
            "transform": [{"filter": f"{inside} && datum.hollow"}],
            "encoding": hollow,
        },
        {"mark": {"type": "point", "size": 420, "opacity": 0, "filled": True}, "encoding": dict(encoding)},
    ]


def _beyond_layers(encoding: Spec, axis: Spec, way: str, shapes: tuple[str, str]) -> list[Spec]:
    """A triangle where an interval goes on beyond the scale, and the number where the value itself does."""
    layers: list[Spec] = [
        {
            "mark": {"type": "point", "shape": f"triangle-{shape}", "size": 44, "filled": True, "opacity": 1},
            "transform": [{"filter": f"isValid(datum.{end})"}],
            "encoding": {**encoding, way: {**axis, "field": end}},
        }
        for end, shape in zip(("top", "bottom"), shapes, strict=True)
    ]
    middle = sum(encoding["x"]["scale"]["domain"]) / 2
    for side, align, dx in ((">", "right", -7), ("<=", "left", 7)):
        mark = {"type": "text", "align": align, "dx": dx, "fontSize": 11}
        mark["dy"] = {"expr": "datum.y > 0 ? 9 : -8"} if way == "y" else 1
        inner = f"isValid(datum.beyond) && datum.{'x' if way == 'y' else 'y'} {side} {middle:g}"
        text = {"field": "beyond"}
        layers.append({"mark": mark, "transform": [{"filter": inner}], "encoding": {**encoding, "text": text}})
    return layers


def _labelled(layers: Sequence[Spec]) -> list[Spec]:
    """Layers whose marks carry the number of their series and point, which layercut.report.figures.picture reads."""
    for layer in layers:
        layer["encoding"]["description"] = {"field": "mark", "type": "nominal"}
    return list(layers)


def _wrapped(name: str) -> str:
    """A name in lines that fit beside a plot on a phone."""
    return "\n".join(textwrap.wrap(name, _LETTERS, break_long_words=False)) or name


def _frame(
    points: Sequence[Mapping[str, Any]], height: int, series: Sequence[str], layers: Sequence[Spec] = ()
) -> Spec:
    """A specification around layers; what hovering over a point shows stands in ``usermeta``, by the point's number."""
    values = [{key: value for key, value in point.items() if key != "about"} for point in points]
    for number, value in enumerate(values):
        if "series" in value:
            value["mark"] = f"{series.index(value['series'])} {number}"
    hover = ["\n".join(f"{name}: {text}" for name, text in point["about"].items()) for point in points]
    return {
        "$schema": SCHEMA,
        "width": CONTAINER,
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "usermeta": {"series": list(series), "hover": hover},
        "data": {"values": values},
        **({"layer": list(layers)} if layers else {}),
    }
