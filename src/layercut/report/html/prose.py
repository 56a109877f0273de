"""Markdown of report.md as blocks of the page: text as HTML, tables as tables that can be downloaded.

One source for both reports, so that their numbers and words cannot differ. Raw HTML, links and pictures stay plain
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markupsafe import Markup

from layercut.report.elements import Block, Prose, Table

if TYPE_CHECKING:
    from markdown_it.token import Token


def blocks(lines: Sequence[str], *, name: str, caption: str = "") -> list[Block]:
    """Markdown lines as prose and tables; headings are left out.

    Args:
        lines: Markdown, as the functions behind report.md give it.
        name: of the tables' CSV files; a number is added from the second on.
        caption: of the tables.
    """
    markdown = _markdown()
    found: list[Block] = []
    text: list[Token] = []
    tokens = iter(markdown.parse("\n".join(lines)))

    def end_text() -> None:
        html = markdown.renderer.render(text, markdown.options, {})
        if html.strip():
            found.append(Prose(html=Markup(html)))
        text.clear()

    for token in tokens:
        if token.type == "table_open":
            end_text()
            inside = []
            for part in tokens:
                if part.type == "table_close":
                    break
                inside.append(part)
            number = sum(isinstance(block, Table) for block in found)
            found.append(_table(inside, f"{name}-{number + 1}" if number else name, caption))
        elif token.type == "heading_open":
            for part in tokens:
                if part.type == "heading_close":
                    break
        else:
            text.append(token)
    end_text()
    return found


def prose(lines: Sequence[str] | str) -> Prose:
    """Markdown without tables."""
    return Prose(html=Markup(_markdown().render(lines if isinstance(lines, str) else "\n".join(lines))))


def inline(text: str) -> Markup:
    """One line of Markdown without a paragraph around it."""
    return Markup(_markdown().renderInline(text))


def _table(tokens: Sequence[Token], name: str, caption: str) -> Table:
    rows: list[list[Markup]] = []
    numeric: set[int] = set()
    cells = iter(tokens)
    for token in cells:
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            if "right" in str(token.attrGet("style") or ""):
                numeric.add(len(rows[-1]))
            rows[-1].append(Markup(_markdown().renderer.render([next(cells)], _markdown().options, {})))
    return Table(
        name=name,
        caption=caption,
        head=[cell.striptags() for cell in rows[0]],
        rows=rows[1:],
        numeric=frozenset(numeric),
    )


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    rules = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(rules)
