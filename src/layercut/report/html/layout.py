"""Layout of the page: templates, whose input is escaped, and Markdown of report.md as blocks.

One source for both reports, so that their numbers and words cannot differ. Raw HTML, links and pictures stay plain
text.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from layercut.evidence.completions import first_difference
from layercut.evidence.study import StudyResults
from layercut.report.answers import OUTCOMES
from layercut.report.elements import Block, Panel, Prose
from layercut.report.figures import picture
from layercut.report.table import Part, Surface, Table, units
from layercut.report.words import readout_words
from layercut.runs.directory import RunFolder
from layercut.text.markup import printable


def browser(study: StudyResults, original: str = "uncut", others: str = "Plan") -> Markup:
    """Controls and packed answers; a line in place of them where scripts do not run.

    Args:
        original: name of the model that the others are compared with.
        others: heading of their list.
    """
    blocks: list[str] = []
    index = []
    for task, readout in dict.fromkeys((row.task, row.readout) for row in study.rows):
        before = {record["id"]: record for record in study.uncut.records(task, readout)}
        asked = [row.cut.name for row in study.rows if (row.task, row.readout) == (task, readout)]
        runs = [run for run in study.cuts if run.name in asked]
        items = [[printable(one["id"]), printable(one["question"]), printable(one["gold"])] for one in before.values()]
        blocks.append(_packed([items, [_answer(one) for one in before.values()]]))
        first = len(blocks)
        blocks += [_packed(_beside(before, run, task, readout)) for run in runs]
        plans = [{"name": printable(run.name), "block": first + place} for place, run in enumerate(runs)]
        named = {"task": printable(task), "readout": printable(readout), "words": readout_words(readout)}
        index.append({**named, "block": first - 1, "plans": plans})
    about = json.dumps(
        {"tasks": index, "outcomes": OUTCOMES, "original": printable(original)}, ensure_ascii=True
    ).replace("<", "\\u003c")
    return filled("browser.html", blocks=blocks, index=Markup(about), others=others)


def _beside(before: Mapping[str, Any], run: RunFolder, task: str, readout: str) -> list[Any]:
    """The pruned model's answer to each item, with the ends of the first difference; None for what it was not asked."""
    after = {record["id"]: record for record in run.records(task, readout)}
    found: list[Any] = []
    for item, old in before.items():
        new = after.get(item)
        if new is None:
            found.append(None)
            continue
        uncut, cut = _text(old), _text(new)
        start, end = first_difference(uncut, cut)
        ends = [len(printable(cut[:place]).encode("utf-16-le")) // 2 for place in (start, end)]
        found.append([*_answer(new), *(ends if uncut != cut else ())])
    return found


def _answer(record: Mapping[str, Any]) -> list[str]:
    """Outcome, graded answer and whole text."""
    return [record["outcome"], printable(record["answer"]), printable(_text(record))]


def _text(record: Mapping[str, Any]) -> str:
    return str(record.get("completion", record["answer"]))


def _packed(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


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
    markdown.add_render_rule("text", _escape_text)
    return markdown


def _escape_text(_: object, tokens: Sequence[Token], place: int, *__: object) -> str:
    return escape(units(tokens[place].content))
