"""Both forms of a report: its sections as one page for a browser, and as Markdown.

Templates escape what they are given; raw HTML, links and pictures inside Markdown stay plain text. The page's content
policy allows its own script, by its hash, and no network. The same sections give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from layercut.report import charts
from layercut.report.elements import Block, Details, Facts, Figure, Lead, Section, Table, bullet_list, markdown_lines
from layercut.text import escape_inline as escape_markdown
from layercut.text import escaped_markdown

ASSETS = Path(__file__).parent / "assets"
MARK = '<meta name="generator" content="layercut">'
"""Part of page.html, by which a page of layercut is known."""


def html_page_text(title: str, sections: Sequence[Section]) -> str:
    """A page with these sections."""
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    assert "</script" not in script.lower() and "<!--" not in script, "the page's script would end its own tag"
    names = [section.name for section in sections]
    assert len(set(names)) == len(names), f"two sections share an anchor: {names}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return fill_template(
        "page.html",
        title=title,
        sections=sections,
        style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


def fill_template(template: str, **values: Any) -> Markup:
    """A template of the folder assets with values."""
    return Markup(page_templates().get_template(template).render(**values))


@cache
def page_templates() -> Environment:
    """The templates of the folder assets."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__.lower(),
        "drawn": lambda panel, name, columns: Markup("".join(charts.draw_picture(panel, name, columns=columns))),
        "inline": inline_html,
        "prose": lambda text: Markup(_markdown().render(text)),
    }
    return environment


def inline_html(text: str) -> Markup:
    """One line of Markdown as HTML, without a paragraph around it."""
    return Markup(_markdown().renderInline(text))


@cache
def _markdown() -> MarkdownIt:
    rules = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
    return MarkdownIt("commonmark", {"html": False}).disable(rules)


def markdown_text(title: str, sections: Sequence[Section]) -> str:
    """A report in Markdown with these sections."""
    parts = [f"# {escape_markdown(title)}"]
    for section in sections:
        if text := markdown_of(section.blocks):  # the list of answers is on the page alone
            parts += [f"## {escaped_markdown(section.title)}", escaped_markdown(section.lead), text]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_of(blocks: Iterable[Block], level: int = 3) -> str:
    """Blocks as Markdown, one below the other; of a figure its table."""
    return "\n\n".join(filter(None, (_block_markdown(block, level) for block in blocks)))


def _block_markdown(block: Block, level: int) -> str:
    match block:
        case str():
            return block.strip("\n")
        case Table():
            caption = [f"**{escaped_markdown(block.caption)}**", ""] if block.caption else []
            return "\n".join([*caption, *markdown_lines(block)])
        case Figure():
            return markdown_of([block.table or ""])
        case Lead():
            return block.text
        case Facts():
            return bullet_list(f"{name}: {text}" for name, text in block.facts)
        case Details():
            return f"{'#' * level} {escaped_markdown(block.summary)}\n\n{markdown_of(block.blocks, level + 1)}"
    return ""
