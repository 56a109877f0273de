"""Sections of the page, in their order. A section is a function of the source; None where there is nothing to show.

To add one: a file here with such a function, and a line in SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable

from layercut.report.elements import Section
from layercut.report.html.sections.answer import answer
from layercut.report.html.sections.broken import broken
from layercut.report.html.sections.cost import cost
from layercut.report.html.sections.endings import endings
from layercut.report.html.sections.errors import errors
from layercut.report.html.sections.items import items
from layercut.report.html.sections.provenance import provenance
from layercut.report.html.sections.readouts import readouts
from layercut.report.html.sections.retention import retention
from layercut.report.html.sections.scores import scores
from layercut.report.html.sections.sensitivity import sensitivity
from layercut.report.html.source import Source

SECTIONS: tuple[Callable[[Source], Section | None], ...] = (
    answer, scores, retention, readouts, sensitivity, broken, items, errors, endings, cost, provenance,
)  # fmt: skip
