"""Plots as SVG for the page, drawn by vl-convert."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from layercut.report.elements import Panel

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
