"""A page of report.html as its browser would read it: headings, attributes, tables by their name."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Page:
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    """Cells as they are shown, the head first."""
    scripts: list[str] = field(default_factory=list)
    text: str = ""
    """All that is shown."""

    def attributes(self, name: str) -> list[str]:
        return [given[name] for _, given in self.tags if name in given]

    def named(self, tag: str) -> list[dict[str, str]]:
        return [given for found, given in self.tags if found == tag]


def read_page(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"left open: {reader.open}"
    return reader.page


_VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.page.tags.append((tag, given))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = []
            if name := given.get("data-name"):
                assert name not in self.page.tables, f"two tables are called {name}"
                self.page.tables[name] = self.rows
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("h1", "h2", "h3", "h4"):
            self.page.headings.append((int(tag[1]), ""))
        elif tag == "script":
            self.page.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        data = data.replace("\u00a0", " ")
        inside = self.open[-1] if self.open else ""
        if "script" in self.open:
            self.page.scripts[-1] += data
        elif inside != "style":
            self.page.text += data
            if ("td" in self.open or "th" in self.open) and self.rows:
                self.rows[-1][-1] += data
            if inside in ("h1", "h2", "h3", "h4"):
                level, text = self.page.headings[-1]
                self.page.headings[-1] = (level, text + data)
