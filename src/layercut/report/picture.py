"""Plots as pictures, drawn by vl-convert: each panel as SVG for the page, a whole figure as PNG for Markdown."""

from __future__ import annotations

import json
import logging
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from layercut.report.charts import SCHEMA
from layercut.report.elements import Figure, Key, Panel
from layercut.runs.atomic import write_bytes
from layercut.text import printable_text

logger = logging.getLogger(__name__)

STYLE = Path(__file__).parent / "assets" / "report.css"
NARROW, WIDE = 350, (1150, 560)
"""Pixels of a panel on a phone, and on a wide screen by the number of columns."""
# Pixels of all panels of a PNG together, dots of a pixel, pixels between panels, of a letter and of a line of a legend.
_WIDTH, _SCALE, _GAP, _LETTER, _LINE = 680, 2, 110, 6.4, 20
_ADDRESS_SPACE = 80 * 2**30  # bytes that vl-convert's V8 reserves, about; with less it ends the whole process
_DROPPED = {
    "role", "aria-label", "aria-roledescription", "aria-hidden", "font-family", "pointer-events", "version", "class",
    "stroke-miterlimit",
}  # fmt: skip
_DEFAULTS = {"opacity": "1", "font-weight": "normal", "stroke-dasharray": "1,0", "stroke-width": "1"}
_OWN = {
    "legend": {"color": "independent"},
    "scale": dict.fromkeys(("color", "fill", "stroke", "strokeDash"), "independent"),
}
"""Panels that name other series have other colours and dashes."""


def save_picture(figure: Figure | None, path: Path) -> bool:
    """Write a figure as PNG, if there is one; the same figure gives the same bytes with the same vl-convert."""
    if figure is None or not figure.panels or not _can_draw():
        return False
    import vl_convert

    write_bytes(path, vl_convert.vegalite_to_png(picture_spec(figure), scale=_SCALE))
    return True


def draw_picture(panel: Panel, name: str, *, columns: int = 2) -> list[str]:
    """A panel as SVG for a phone and for a wide screen.

    Marks carry ``data-s``, the name of their series, and points ``data-tip``, what hovering over them shows. Colours
    are CSS variables. ``name`` must be unique on the page: anchors inside the SVG begin with it.
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

    namespace = "http://www.w3.org/2000/svg"
    ElementTree.register_namespace("", namespace)
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(_visible({**spec, "width": width})))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("class") in ("background", "foreground"):
                parent.remove(child)
    # vl-convert numbers its anchors over its whole life.
    anchors = {node.get("id"): f"{name}-{place}" for place, node in enumerate(root.iterfind(".//*[@id]"))}
    for node in root.iter():
        if mark := re.fullmatch(r"(\d+) (\d+)", node.get("aria-label", "")):
            node.set("data-s", printable_text(spec["usermeta"]["series"][int(mark[1])]))
            if node.get("opacity") == "0":
                node.set("data-tip", printable_text(spec["usermeta"]["hover"][int(mark[2])]))
        for key, value in list(node.attrib.items()):
            if key in _DROPPED or _DEFAULTS.get(key) == value:
                del node.attrib[key]
            elif key == "id":
                node.set(key, anchors[value])
            elif value.startswith("url(#"):
                node.set(key, f"url(#{anchors[value[5:-1]]})")
            elif key in ("d", "transform", "x", "y", "x2", "y2"):
                node.set(key, re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.4g}", value))
    root.set("class", size)
    return ElementTree.tostring(root, encoding="unicode")


def _visible(data: Any) -> Any:
    """Escape control characters in all texts: XML has none."""
    if isinstance(data, dict):
        return {key: _visible(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_visible(value) for value in data]
    return printable_text(data) if isinstance(data, str) else data


def picture_spec(figure: Figure) -> dict[str, Any]:
    """The whole figure as one Vega-Lite specification, with widths in pixels and without CSS variables."""
    columns = min(figure.columns, len(figure.panels))
    width = (_WIDTH - (columns - 1) * _GAP) // columns
    parts = [_legend(figure.legend)] if figure.legend else []
    for row in _rows(figure.panels, columns):
        parts.append({"hconcat": [_view(panel, width) for panel in row], "spacing": 16, "resolve": _OWN})
    title = {"anchor": "start", "fontSize": 13, "color": "var(--ink)"}
    config = {**figure.panels[0].spec["config"], "background": "var(--page)", "title": title}
    whole = {"$schema": SCHEMA, "config": config, "spacing": 16, "padding": 12, "vconcat": parts, "resolve": _OWN}
    light = STYLE.read_text(encoding="utf-8").split("}", 1)[0]
    colours = dict(re.findall(r"(--[\w-]+): (#\w+);", light))
    text = json.dumps(_visible(whole), allow_nan=False)
    return dict(json.loads(re.sub(r"var\((--[\w-]+)\)", lambda name: colours[name[1]], text)))


def _rows(panels: Sequence[Panel], columns: int) -> list[list[Panel | None]]:
    """Panels as the page's grid lays them out; None where a column stays empty."""
    rows: list[list[Panel | None]] = [[]]
    for panel in panels:
        column = min(panel.column or len(rows[-1]) % columns + 1, columns)
        if len(rows[-1]) >= column and rows[-1]:
            rows.append([])
        rows[-1] += [None] * (column - 1 - len(rows[-1])) + [panel]
    return rows


def _view(panel: Panel | None, width: int) -> dict[str, Any]:
    if panel is None:
        return {"data": {"values": []}, "mark": "point", "width": width, "height": 1}
    alone = ("$schema", "config", "autosize", "usermeta")
    view = {key: value for key, value in panel.spec.items() if key not in alone}
    return {**view, "width": width, **({"title": textwrap.wrap(panel.title, width // 6)} if panel.title else {})}


def _legend(keys: Sequence[Key]) -> dict[str, Any]:
    """Every key as a piece of line, a point and its name, from left to right in as many lines as it takes."""
    layers: list[dict[str, Any]] = []
    x, line = 0.0, 0
    for key in keys:
        width = 44 + _LETTER * len(key.label)
        if x > 0 and x + width > _WIDTH:
            x, line = 0.0, line + 1
        y = {"value": line * _LINE + _LINE / 2}
        dash = [float(part) for part in (key.dash or "1 0").split()]
        rule = {"type": "rule", "color": key.colour, "strokeWidth": 2, "strokeDash": dash}
        fill = "var(--page)" if key.hollow else key.colour
        point = {"type": "point", "fill": fill, "stroke": key.colour, "strokeWidth": 1.8, "size": 46, "opacity": 1}
        text = {"type": "text", "text": key.label, "align": "left", "baseline": "middle", "color": "var(--ink)"}
        if key.line:
            layers.append({"mark": rule, "encoding": {"x": {"value": x}, "x2": {"value": x + 26}, "y": y}})
        layers.append({"mark": point, "encoding": {"x": {"value": x + 13}, "y": y}})
        layers.append({"mark": {**text, "fontSize": 12}, "encoding": {"x": {"value": x + 33}, "y": y}})
        x += width
    return {"data": {"values": [{}]}, "width": _WIDTH, "height": (line + 1) * _LINE, "layer": layers}
