"""Layout of the page: templates, whose input is escaped, and Markdown of report.md as blocks.

One source for both reports, so that their numbers and words cannot differ. Raw HTML, links and pictures stay plain
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from layercut.report.elements import Block, Panel, Prose
from layercut.report.figures import picture
from layercut.report.table import Part, Surface, Table, units

ASSETS = Path(__file__).parent / "assets"


def filled(template: str, **values: Any) -> Markup:
    """A template of the folder assets with values."""
    return Markup(templates().get_template(template).render(**values))


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
    environment.globals["PAGE"] = Surface.PAGE
    return environment


def _drawn(panel: Panel, name: str, columns: int) -> Markup:
    return Markup("").join(Markup(svg) for svg in picture.drawn(panel, name, columns=columns))


def blocks(parts: Sequence[Part]) -> list[Block]:
    """Parts of report.md as prose and tables; headings are left out."""
    found: list[Block] = []
    for is_table, group in groupby(parts, key=lambda part: isinstance(part, Table)):
        if is_table:
            found += cast("Iterator[Table]", group)
        elif html := _without_headings("\n".join(cast("Iterator[str]", group))).strip():
            found.append(Prose(html=Markup(html + "\n")))
    return found


def _without_headings(text: str) -> str:
    markdown, kept, tokens = _markdown(), [], iter(_markdown().parse(text))
    for token in tokens:
        if token.type == "heading_open":
            next(part for part in tokens if part.type == "heading_close")
        else:
            kept.append(token)
    return str(markdown.renderer.render(kept, markdown.options, {}))


def prose(lines: Sequence[str] | str) -> Prose:
    """Markdown without tables."""
    return Prose(html=Markup(_markdown().render(lines if isinstance(lines, str) else "\n".join(lines))))


def inline(text: str) -> Markup:
    """One line of Markdown without a paragraph around it."""
    return Markup(_markdown().renderInline(text))


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    rules = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
    markdown = MarkdownIt("commonmark", {"html": False}).disable(rules)
    markdown.add_render_rule("text", _text)
    return markdown


def _text(_: object, tokens: Sequence[Token], place: int, *__: object) -> str:
    return escape(units(tokens[place].content))
