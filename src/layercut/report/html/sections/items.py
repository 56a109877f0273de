"""Every answer of the original and the pruned models, side by side."""

from __future__ import annotations

from markupsafe import Markup

from layercut.report.elements import Prose, Section
from layercut.report.html.source import Source

ITEMS_PAGE = "report-items.html"
MOST_BYTES = 3_000_000
"""Of packed answers inside the page; more of them get a page of their own."""


def items(source: Source) -> Section | None:
    """None without a study, or without texts."""
    if source.browser is None:
        return None
    elsewhere = Markup(
        '<p>All answers are in <a href="{}">{}</a> ({:.1f} MB), a file in the same folder as this page. Send it along '
        "when you send the page.</p>"
    ).format(ITEMS_PAGE, ITEMS_PAGE, len(source.browser) / 1e6)
    return answers(source.browser if len(source.browser) <= MOST_BYTES else elsewhere)


def answers(html: Markup) -> Section:
    """The section with this content."""
    return Section(
        name="items",
        title="Every answer, before and after",
        short="Answers",
        lead="Marked: the first word or sign that differs from the original model's answer.",
        blocks=(Prose(html=html),),
    )
