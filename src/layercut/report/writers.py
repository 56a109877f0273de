"""Both forms of a report: its sections as one page for a browser, and as Markdown with pictures.

Templates escape what they are given; raw HTML, links and pictures inside Markdown stay plain text. The page's content
policy allows its own script, by its hash, and no network. The same sections give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from layercut.report import picture
from layercut.report.elements import Beside, Block, Details, Example, Facts, Figure, Lead, Section, Side, bullet_list
from layercut.report.table import Surface, Table, join_number_units, markdown_lines
from layercut.text import MOST_CHARACTERS, code_span, escaped_markdown, fenced_block, printable_text
from layercut.text import escape_inline as escape_markdown
from layercut.text import markdown_table as markdown_table

ASSETS = Path(__file__).parent / "assets"
MARK = '<meta name="generator" content="layercut">'
"""Part of page.html, by which a page of layercut is known."""
_SHORT = 30  # letters of a model's name that fits in a line of the heading
_LEAD = 60  # characters that are shown before the first difference of two long answers


def html_page_text(title: str, sections: Sequence[Section], model: str = "") -> str:
    """A page with these sections; the model's name in its heading is not broken at its hyphens, unless it is long."""
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    assert "</script" not in script.lower() and "<!--" not in script, "the page's script would end its own tag"
    sections = [section for section in sections if Surface.PAGE in section.on]
    names = [section.name for section in sections]
    assert len(set(names)) == len(names), f"two sections share an anchor: {names}"
    heading = Markup("{}").format(title)
    if 0 < len(model) <= _SHORT:
        heading = Markup('{}<span class="model">{}</span>{}').format(*title.partition(model))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return fill_template(
        "page.html",
        title=title,
        heading=heading,
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
        "units": join_number_units,
        "drawn": lambda panel, name, columns: Markup("".join(picture.draw_picture(panel, name, columns=columns))),
        "inline": inline_html,
        "prose": lambda text: Markup(_markdown().render(text)),
        "printable": printable_text,
        "shortened": lambda text: printable_text(
            text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rstrip() + " [...]"
        ),
        "pieces": answer_pieces,
    }
    environment.globals["PAGE"] = Surface.PAGE
    return environment


def inline_html(text: str) -> Markup:
    """One line of Markdown as HTML, without a paragraph around it."""
    return Markup(_markdown().renderInline(text))


@cache
def _markdown() -> MarkdownIt:
    rules = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
    markdown = MarkdownIt("commonmark", {"html": False}).disable(rules)
    markdown.add_render_rule("text", lambda _, tokens, place, *__: escape(join_number_units(tokens[place].content)))
    return markdown


class MarkedText(NamedTuple):
    """An answer around its first difference."""

    before: str
    mark: str
    after: str


def answer_pieces(side: Side) -> MarkedText:
    """An answer in three pieces, the middle one to be marked; a long one around the first difference."""
    text, (start, end) = side.text, side.difference or (0, 0)
    first = max(0, start - _LEAD) if len(text) > MOST_CHARACTERS else 0
    last = first + MOST_CHARACTERS
    wrong = text[start:end].replace("\n", "↵\n")
    if word := text[start:end].strip():
        start, wrong = text.index(word, start), word  # the mark begins at the word, not at the space before it
    is_shorter = side.difference is not None and start == end
    return MarkedText(
        ("[...] " if first else "") + printable_text(text[first:start]),
        printable_text(wrong) or ("(ends here)" if is_shorter else ""),
        printable_text(text[end:last]) + (" [...]" if last < len(text) else ""),
    )


def markdown_text(title: str, sections: Sequence[Section], folder: Path) -> str:
    """A report in Markdown with these sections; its pictures are drawn into ``folder``."""
    parts = [f"# {escape_markdown(title)}"]
    for section in sections:
        if Surface.MARKDOWN in section.on:
            parts += [
                f"## {escaped_markdown(section.title)}",
                escaped_markdown(section.lead),
                markdown_of(section.blocks, folder),
            ]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_of(blocks: Iterable[Block], folder: Path | None = None, level: int = 3) -> str:
    """Blocks as Markdown, one below the other. Without a folder there are no pictures."""
    return "\n\n".join(filter(None, (_block_markdown(block, folder, level) for block in blocks)))


def _block_markdown(block: Block, folder: Path | None, level: int) -> str:
    match block:
        case str():
            return block.strip("\n")
        case Table():
            caption = [f"**{escaped_markdown(block.caption)}**", ""] if block.caption else []
            return "\n".join([*caption, *markdown_lines(block)])
        case Figure():
            has_picture = block.picture and folder is not None and picture.save_picture(block, folder / block.picture)
            return markdown_of([f"![{block.title}]({block.picture})" if has_picture else "", block.table or ""])
        case Lead(lines=[("", text)]):
            return text
        case Lead():
            return bullet_list(
                f"**{escaped_markdown(about)}:** {text}" if about else text for about, text in block.lines
            )
        case Facts():
            return bullet_list(f"{name}: {text}" for name, text in block.facts)
        case Example():
            return _example_markdown(block)
        case Details() if Surface.MARKDOWN in block.on:
            return f"{'#' * level} {escaped_markdown(block.summary)}\n\n{markdown_of(block.blocks, folder, level + 1)}"
        case Beside():
            return markdown_of(block.blocks, folder, level)
    return ""


def _example_markdown(example: Example) -> str:
    """The item with all its answers, and in full the original model's and the first other one's, if they are more."""
    gold = f", right answer {code_span(example.gold)}" if example.gold else ""
    parts = [f"Item {code_span(example.item)}{gold}:", "\n".join(fenced_block(example.question))]
    if example.rows:
        rows = [
            [
                escape_markdown(model),
                *(f"{code_span(answer)} {ended}" if answer else ended for answer, ended in answers),
            ]
            for model, answers in example.rows
        ]
        parts.append("\n".join(markdown_table(["model", *example.head], rows)))
    brief = {answer for _, answers in example.rows for answer, _ in answers}
    for readout, sides in example.texts:
        for side in sides[:2]:
            if " ".join(printable_text(side.text).split()) not in brief:
                before, mark, after = answer_pieces(side)
                named = ", ".join(filter(None, (escape_markdown(side.name), readout)))
                parts += [f"{named}:", "\n".join(fenced_block(f"{before}⟦{mark}⟧{after}" if mark else before + after))]
    return "\n\n".join(parts)
