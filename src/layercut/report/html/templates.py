"""The templates that lay out a page; everything that is put into them is escaped."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from layercut.report.elements import Panel, units
from layercut.report.figures import picture

ASSETS = Path(__file__).parent / "assets"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates of the folder assets."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"units": units, "drawn": _drawn}
    return environment


def _drawn(panel: Panel, name: str, columns: int) -> Markup:
    return Markup("").join(Markup(svg) for svg in picture.drawn(panel, name, columns=columns))
