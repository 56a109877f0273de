"""Escape text of models and people inside Markdown: nothing becomes markup, and control characters are made visible."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

MOST_CHARACTERS = 600
PATH_CHARACTERS = 4096  # most of a path: those that people copy are shown whole
UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""For a class of characters: control characters that JSON leaves as they are, ends of lines, marks that turn the
direction of text, and halves of surrogate pairs."""
_INTERVAL = re.compile(r"\\\[([-+\d., ]+|n/a)\\\](?![\[(])|\\(?=<[\d.])")
"""Escapes that no Markdown needs: brackets around numbers, and a sign before a number."""


def fenced(text: str) -> list[str]:
    """Text as it stands, in a fence longer than any run of backticks in it, cut after 600 characters."""
    shortened = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rstrip() + " [...]"
    fence = "`" * max(3, 1 + _longest_run(shortened))
    return [f"{fence}text", *printable(shortened).strip("\n").split("\n"), fence]


def code(text: str, most: int = 80) -> str:
    """Text on one line as code inside a table cell, cut after ``most`` characters."""
    line = on_one_line(text, most)
    if not line:
        return "(empty)"
    ticks = "`" * (1 + _longest_run(line))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}".replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[int] = ()) -> list[str]:
    """Lines of a table whose cells are Markdown already; columns of ``numeric`` are set to the right.

    >>> table(["", "n"], [["a", "1"]], {1})
    ['| | n |', '|---|---:|', '| a | 1 |']
    """
    first = "".join(f" {cell} |" if cell else " |" for cell in head)
    rule = "".join("---:|" if place in numeric else "---|" for place in range(len(head)))
    return [f"|{first}", f"|{rule}", *("| " + " | ".join(row) + " |" for row in rows)]


def on_one_line(text: str, most: int = 80) -> str:
    """Text on one line, cut after ``most`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def escape(text: str) -> str:
    """A name inside a sentence or a table cell."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def escaped(text: str) -> str:
    """Plain text in Markdown, without escapes that no Markdown needs."""
    return _INTERVAL.sub(lambda found: f"[{found[1]}]" if found[1] else "", escape(text))


def printable(text: str) -> str:
    """Characters that are not seen but change what is, which a broken model may well write, as visible escapes."""
    return re.sub(rf"[\x00-\x08\x0b-\x1f{UNSEEN}]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
