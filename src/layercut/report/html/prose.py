"""Markdown of report.md as blocks of the page: text as HTML, tables as tables that can be downloaded.

One source for both reports, so that their numbers and words cannot differ. Raw HTML, links and pictures stay plain
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import cast

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from layercut.report.elements import Block, Part, Prose, Table, units


def blocks(parts: Sequence[Part]) -> list[Block]:
    """What the functions behind report.md give, as prose and tables; headings are left out."""
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
