"""report.html: one self-contained page, from run folders alone. The same folders give the same bytes.

    write_page(folder, read_source(folder))

The page's content policy allows its own script, by its hash, and no network; text of models is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from layercut.evidence.study import StudyResults
from layercut.report.comparison import TwoRuns
from layercut.report.elements import Prose, Section
from layercut.report.first import title_of
from layercut.report.html.answers import ITEMS_PAGE, MOST_BYTES, endings, errors, items, items_section
from layercut.report.html.damage import answer, broken, sensitivity
from layercut.report.html.layout import ASSETS, browser, filled
from layercut.report.html.provenance import cost, provenance
from layercut.report.html.scores import readouts, retention, scores
from layercut.report.source import Source
from layercut.runs.atomic import write_output, write_text
from layercut.runs.directory import PAGE

SECTIONS: tuple[Callable[[Source], Section | None], ...] = (
    answer, scores, retention, readouts, sensitivity, broken, items, errors, endings, cost, provenance,
)  # fmt: skip
"""Sections in their order; each is None where there is nothing to show."""
MARK = '<meta name="generator" content="layercut">'
"""Part of page.html, by which a page of layercut is known."""
_SHORT = 30
"""Letters of a name that fits in a line of the heading."""


def write_page(folder: Path, source: Source) -> Path:
    """Write ``report.html`` into a run folder; gives its path."""
    found = [section for section in (make(source) for make in SECTIONS) if section is not None]
    title, heading = _title(source), _heading(source)
    write_text(folder / PAGE, laid_out(title, heading, found))
    beside = folder / ITEMS_PAGE
    if source.browser is not None and len(source.browser) > MOST_BYTES:
        write_text(beside, laid_out(title, heading, [items_section(source.browser)]))
    else:
        beside.unlink(missing_ok=True)
    return folder / PAGE


def write_comparison(file: Path, study: StudyResults, found: TwoRuns) -> Path:
    """Write a page of two runs: their scores, and every answer of both; gives its path."""
    every = browser(study, study.uncut.name, "Compared with")
    sections = [
        Section(
            name="scores",
            title="Scores",
            lead=" ".join([*found.scope, *found.means]),
            blocks=(found.table, Prose(html=Markup("<p>{}</p>").format(" ".join(found.legend)))),
        ),
        items_section(every, study.uncut.name),
    ]
    title = f"{study.cuts[0].name} beside {study.uncut.name}"
    write_output(file, laid_out(title, Markup("{}").format(title), sections), MARK)
    return file


def laid_out(title: str, heading: Markup, sections: Sequence[Section]) -> str:
    """A page with these sections."""
    script = _asset("report.js")
    assert "</script" not in script.lower(), "a script of the page would end its own tag"
    assert "<!--" not in script, "a script of the page would open a comment"
    names = [section.name for section in sections]
    assert len(set(names)) == len(names), f"two sections share an anchor: {names}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return filled(
        "page.html",
        title=title,
        heading=heading,
        sections=sections,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


def _title(source: Source) -> str:
    if source.study is not None:
        return title_of(source.first, source.model)
    if source.sweep is not None:
        return f"What {source.model} loses without each of its layers"
    return f"What broke in {source.model}"


def _heading(source: Source) -> Markup:
    """The title with a model's name that is not broken at its hyphens, unless it is long."""
    before, name, after = _title(source).partition(source.model)
    name = Markup('<span class="model">{}</span>').format(name) if len(name) <= _SHORT else name
    return Markup("{}{}{}").format(before, name, after)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
