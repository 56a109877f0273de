"""Plots as pictures, drawn by vl-convert: each panel as SVG for the page, a whole figure as PNG for Markdown."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from layercut.report.charts import SCHEMA
from layercut.report.elements import Figure, Key, Panel
from layercut.runs.atomic import write_bytes
from layercut.text.markup import printable

logger = logging.getLogger(__name__)

STYLE = Path(__file__).parent / "assets" / "report.css"
_WIDTH, _SCALE = 680, 2
"""Pixels of all panels together, and how many dots each of them has."""
_GAP, _LETTER, _LINE = 110, 6.4, 20
"""Pixels between panels with their axes, of a letter, and of a line of the legend."""
NARROW, WIDE = 350, (1150, 560)
"""Pixels of a panel on a phone, and on a wide screen by the number of columns."""
_SVG = "{http://www.w3.org/2000/svg}"
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

_CHILD = """
import json, resource, sys, vl_convert
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kind, spec, more = json.load(sys.stdin)
made = getattr(vl_convert, kind)(spec, **more)
sys.stdout.buffer.write(made if isinstance(made, bytes) else made.encode())
"""
_failed: list[str] = []
"""Kinds of pictures that could not be drawn; no other is tried then."""


def save(figure: Figure | None, path: Path) -> bool:
    """Write a figure as PNG, if there is one; the same figure gives the same bytes with the same vl-convert."""
    if figure is None or not figure.panels:
        return False
    drawing = _draw("vegalite_to_png", specification(figure), scale=_SCALE)
    if drawing is not None:
        write_bytes(path, drawing)
    return drawing is not None


def drawn(panel: Panel, name: str, *, columns: int = 2) -> list[str]:
    """A panel as SVG for a phone and for a wide screen.

    Marks carry ``data-s``, the name of their series, and points ``data-tip``, what hovering over them shows. Colours
    are CSS variables. ``name`` must be unique on the page: anchors inside the SVG begin with it.
    """
    sizes = {"narrow": NARROW, "wide": WIDE[columns > 1]}
    drawings = [_svg(panel.spec, f"{name}-{size}", size, width) for size, width in sizes.items()]
    return [drawing for drawing in drawings if drawing is not None]


@lru_cache(maxsize=1)
def _in_a_child() -> bool:
    """Tell if address space is limited (ulimit -v): V8 reserves much of it, and ends its process without."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return False
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _draw(kind: str, spec: dict[str, Any], **more: Any) -> bytes | None:
    """The bytes of a picture; None where vl-convert cannot draw under the limit on address space."""
    if not _in_a_child():
        import vl_convert

        made: str | bytes = getattr(vl_convert, kind)(spec, **more)
        return made if isinstance(made, bytes) else made.encode()
    if _failed:
        return None
    command, job = [sys.executable, "-P", "-c", _CHILD], json.dumps([kind, spec, more]).encode()
    done = subprocess.run(command, input=job, capture_output=True, check=False)
    if done.returncode:
        _failed.append(kind)
        logger.warning(
            "no pictures: drawing takes some 70 GB of address space, and `ulimit -v` allows less. All numbers are in "
            "the tables; without that limit the same command draws."
        )
    return None if done.returncode else done.stdout


def _svg(spec: dict[str, Any], name: str, size: str, width: int) -> str | None:
    drawing = _draw("vegalite_to_svg", _visible({**spec, "width": width}))
    if drawing is None:
        return None
    about = spec["usermeta"]
    ElementTree.register_namespace("", _SVG.strip("{}"))
    root = ElementTree.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("class") in ("background", "foreground"):
                parent.remove(child)
    anchors = {one.get("id"): f"{name}-{place}" for place, one in enumerate(root.iterfind(".//*[@id]"))}
    for one in root.iter():  # vl-convert numbers its anchors over its whole life
        if found := re.fullmatch(r"(\d+) (\d+)", one.get("aria-label", "")):
            one.set("data-s", printable(about["series"][int(found[1])]))
            if one.get("opacity") == "0":
                one.set("data-tip", printable(about["hover"][int(found[2])]))
        for key, value in list(one.attrib.items()):
            if key in _DROPPED or _DEFAULTS.get(key) == value:
                del one.attrib[key]
            elif key == "id":
                one.set(key, anchors[value])
            elif value.startswith("url(#"):
                one.set(key, f"url(#{anchors[value[5:-1]]})")
            elif key in ("d", "transform", "x", "y", "x2", "y2"):
                one.set(key, re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.4g}", value))
    root.set("class", size)
    return ElementTree.tostring(root, encoding="unicode")


def _visible(data: Any) -> Any:
    """Escape control characters in all texts: XML has none."""
    if isinstance(data, dict):
        return {key: _visible(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_visible(value) for value in data]
    return printable(data) if isinstance(data, str) else data


def specification(figure: Figure) -> dict[str, Any]:
    """The whole figure as one Vega-Lite specification, with widths in pixels and without CSS variables."""
    columns = min(figure.columns, len(figure.panels))
    width = (_WIDTH - (columns - 1) * _GAP) // columns
    parts = [_legend(figure.legend)] if figure.legend else []
    for row in _rows(figure.panels, columns):
        parts.append({"hconcat": [_view(panel, width) for panel in row], "spacing": 16, "resolve": _OWN})
    config = {**figure.panels[0].spec["config"], "background": "var(--page)"}
    config["title"] = {"anchor": "start", "fontSize": 13, "color": "var(--ink)"}
    whole = {"$schema": SCHEMA, "config": config, "spacing": 16, "padding": 12, "vconcat": parts}
    whole["resolve"] = _OWN
    text = json.dumps(_visible(whole), allow_nan=False)
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
    alone = ("$schema", "config", "autosize", "usermeta")
    kept = {key: value for key, value in panel.spec.items() if key not in alone}
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
