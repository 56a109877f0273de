"""The templates that lay out a page; everything that is put into them is escaped."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from layercut.report.elements import Panel
from layercut.report.figures import picture

ASSETS = Path(__file__).parent / "assets"
_TOGETHER = re.compile(
    r"(?<=\d) (?=%|\[|points?\b|of \d|decoder layers?\b|layers?\b|items?\b|tokens?\b|plans?\b|[kMG]i?B\b|ms\b|s\b|h\b)"
    r"|(?<=[\d%],) (?=[-+]?\d+(?:\.\d+)?\])|(?<=%) (?=\[)|(?<=\bp) (?=[<\d])|(?<=\bn) (?=\d)"
)
"""Spaces inside numbers with units, intervals and the like, where no line may end."""


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


def units(text: str) -> str:
    """The same text with numbers and their units, and both ends of an interval, kept on one line.

    >>> units("88 % [74, 106] of 3 layers").count(chr(0xA0))
    4
    """
    found = _TOGETHER.sub("\u00a0", text)
    return Markup(found) if isinstance(text, Markup) else found


def _drawn(panel: Panel, name: str, columns: int) -> Markup:
    return Markup("").join(Markup(svg) for svg in picture.drawn(panel, name, columns=columns))
