"""A figure as PNG, for Markdown: the plots of the page in its light colours, side by side under one legend."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures.charts import SCHEMA
from layercut.runs.atomic import write_bytes

STYLE = Path(__file__).parents[1] / "html" / "assets" / "report.css"
_WIDTH, _SCALE = 680, 2
"""Pixels of all panels together, and how many dots each of them has."""
_GAP, _LETTER, _LINE = 110, 6.4, 20
"""Pixels between panels with their axes, of a letter, and of a line of the legend."""


def save(figure: Figure | None, path: Path) -> bool:
    """Write a figure as PNG, if there is one; the same figure gives the same bytes with the same vl-convert."""
    if figure is None or not figure.panels:
        return False
    import vl_convert

    write_bytes(path, vl_convert.vegalite_to_png(specification(figure), scale=_SCALE))
    return True


def specification(figure: Figure) -> dict[str, Any]:
    """The whole figure as one Vega-Lite specification, with widths in pixels and without CSS variables."""
    columns = min(figure.columns, len(figure.panels))
    width = (_WIDTH - (columns - 1) * _GAP) // columns
    parts = [_legend(figure.legend)] if figure.legend else []
    for row in _rows(figure.panels, columns):
        parts.append({"hconcat": [_view(panel, width) for panel in row], "spacing": 16})
    config = {**figure.panels[0].spec["config"], "background": "var(--page)", "font": "sans-serif"}
    config["title"] = {"anchor": "start", "fontSize": 13, "color": "var(--ink)"}
    whole = {"$schema": SCHEMA, "config": config, "spacing": 16, "padding": 12, "vconcat": parts}
    whole["resolve"] = {"legend": {"color": "independent"}, "scale": {"color": "independent"}}
    text = json.dumps(whole, allow_nan=False)
    return dict(json.loads(re.sub(r"var\((--[\w-]+)\)", lambda found: _colours()[found[1]], text)))


@lru_cache(maxsize=1)
def _colours() -> dict[str, str]:
    """The page's light colours by the names of their CSS variables."""
    light = STYLE.read_text(encoding="utf-8").split("}", 1)[0]
    return dict(re.findall(r"(--[\w-]+): (#\w+);", light))


def _rows(panels: Sequence[Panel], columns: int) -> list[list[Panel | None]]:
    """Panels as the page's grid lays them out; None where a column stays empty."""
    rows: list[list[Panel | None]] = [[]]
    for panel in panels:
        column = min(panel.column or len(rows[-1]) % columns + 1, columns)
        if len(rows[-1]) >= column and rows[-1]:
            rows.append([])
        rows[-1] += [None] * (column - 1 - len(rows[-1]))
        rows[-1].append(panel)
    return rows


def _view(panel: Panel | None, width: int) -> dict[str, Any]:
    if panel is None:
        return {"data": {"values": []}, "mark": "point", "width": width, "height": 1}
    kept = {key: value for key, value in panel.spec.items() if key not in ("$schema", "config", "autosize")}
    return {**kept, "width": width, **({"title": textwrap.wrap(panel.title, width // 6)} if panel.title else {})}


def _legend(keys: Sequence[Key]) -> dict[str, Any]:
    """Every key as a piece of line, a point and its name, from left to right in as many lines as it takes."""
    layers: list[dict[str, Any]] = []
    x, line = 0.0, 0
    for key in keys:
        width = 44 + _LETTER * len(key.label)
        if x > 0 and x + width > _WIDTH:
            x, line = 0.0, line + 1
        y = {"value": line * _LINE + _LINE / 2}
        dash = [float(part) for part in key.dash.split()] if key.dash else [1, 0]
        if key.line:
            mark = {"type": "rule", "color": key.colour, "strokeWidth": 2, "strokeDash": dash}
            layers.append({"mark": mark, "encoding": {"x": {"value": x}, "x2": {"value": x + 26}, "y": y}})
        fill = "var(--page)" if key.hollow else key.colour
        point = {"type": "point", "fill": fill, "stroke": key.colour, "strokeWidth": 1.8, "size": 46, "opacity": 1}
        layers.append({"mark": point, "encoding": {"x": {"value": x + 13}, "y": y}})
        text = {"type": "text", "text": key.label, "align": "left", "baseline": "middle", "color": "var(--ink)"}
        layers.append({"mark": {**text, "fontSize": 12}, "encoding": {"x": {"value": x + 33}, "y": y}})
        x += width
    return {"data": {"values": [{}]}, "width": _WIDTH, "height": (line + 1) * _LINE, "layer": layers}
