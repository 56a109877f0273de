"""report.html: one self-contained page, from run folders alone. The same folders give the same bytes.

    write_page(Path("runs/quickstart"))

The page's content policy allows its own script, by its hash, and no network; text of models is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from layercut.evidence.study import StudyResults
from layercut.report.elements import Section
from layercut.report.first import FirstScreen, title_of
from layercut.report.html.answer import answer
from layercut.report.html.answers import ITEMS_PAGE, MOST_BYTES, endings, errors, items, items_section
from layercut.report.html.damage import broken, sensitivity
from layercut.report.html.layout import ASSETS, filled
from layercut.report.html.provenance import cost, provenance
from layercut.report.html.scores import readouts, retention, scores
from layercut.report.html.source import Source, read_source
from layercut.runs.atomic import write_text
from layercut.runs.directory import PAGE

SECTIONS: tuple[Callable[[Source], Section | None], ...] = (
    answer, scores, retention, readouts, sensitivity, broken, items, errors, endings, cost, provenance,
)  # fmt: skip
"""Sections in their order; each is None where there is nothing to show."""
_SHORT = 30
"""Letters of a name that fits in a line of the heading."""


def write_page(
    folder: Path,
    *,
    more: Sequence[Path] = (),
    seed: int | None = None,
    study: StudyResults | None = None,
    first: FirstScreen | None = None,
    texts: bool = True,
) -> Path:
    """Write ``report.html`` into a run folder; gives its path.

    Args:
        folder: of a study, a sweep or a diagnosis.
        more: folders of a sweep and a diagnosis of the same model, to be shown on the same page.
        seed: of the resampling; the study's own by default.
        study: what study_results gave for this folder, where that is known already.
        first: what first_screen gave for it, where that is known already.
        texts: whether questions and answers are shown.

    Raises:
        InputError: see read_source.
    """
    source = replace(read_source(folder, more=more, seed=seed, study=study, first=first), texts=texts)
    write_text(Path(folder) / PAGE, render(source))
    beside = Path(folder) / ITEMS_PAGE
    if source.browser is not None and len(source.browser) > MOST_BYTES:
        write_text(beside, _laid_out(source, [items_section(source.browser)]))
    else:
        beside.unlink(missing_ok=True)
    return Path(folder) / PAGE


def render(source: Source) -> str:
    """The page itself."""
    return _laid_out(source, [section for section in (make(source) for make in SECTIONS) if section is not None])


def _laid_out(source: Source, sections: Sequence[Section]) -> str:
    script = _asset("report.js")
    assert "</script" not in script.lower(), "a script of the page would end its own tag"
    assert "<!--" not in script, "a script of the page would open a comment"
    names = [section.name for section in sections]
    assert len(set(names)) == len(names), f"two sections share an anchor: {names}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return filled(
        "page.html",
        title=_title(source),
        heading=_heading(source),
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
