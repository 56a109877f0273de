"""Plots as SVG for the page, drawn by vl-convert."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any
from xml.etree import ElementTree

from layercut.report.elements import Panel
from layercut.text import printable_text

logger = logging.getLogger(__name__)

NARROW, WIDE = 350, (1150, 560)
"""Pixels of a panel on a phone, and on a wide screen by the number of columns."""
_ADDRESS_SPACE = 80 * 2**30  # bytes that vl-convert's V8 reserves, about; with less it ends the whole process
_DROPPED = {"role", "aria-label", "aria-roledescription", "aria-hidden", "font-family", "class"}


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
        for key, value in list(node.attrib.items()):
            if key in _DROPPED:
                del node.attrib[key]
            elif key == "id":
                node.set(key, anchors[value])
            elif value.startswith("url(#"):
                node.set(key, f"url(#{anchors[value[5:-1]]})")
    root.set("class", size)
    return ElementTree.tostring(root, encoding="unicode")


def _visible(data: Any) -> Any:
    """Escape control characters in all texts: XML has none."""
    if isinstance(data, dict):
        return {key: _visible(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_visible(value) for value in data]
    return printable_text(data) if isinstance(data, str) else data
