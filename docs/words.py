"""List coined words in docs, help, messages, docstrings and comments, and the words of the field to write instead.

    python docs/words.py

Its findings are for a writer to judge, so it always ends with exit code 0.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "layercut"
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if page.name != "CHANGELOG.md")
"""All pages but the changelog, which is a record of earlier versions."""

COINED = {
    r"root of all chance": "random seed",
    r"learnt": "trained on, training data, in the loss, fitted",
    r"told": "recorded, reported, called with",
    r"heats?(?! ?maps?\b)": "chunk",
    r"walls?(?! clock\b| time\b)": "isolation",
    r"(?<!BIG-)bench": "diagnostic session",
    r"walk(?:s|ed|ing)?": "local search",
    r"partings?": "first difference",
    r"part(?:s|ed)? from (?:the|it|its|each|one|an?)\b": "differ from",
    r"besides": "exclude, in addition to",
    r"whoever": "rewrite the sentence",
    r"so many": "N, this many",
    r"(?:go|goes|going|went) by": "use",
    r"in turn": "one by one, alternating",
    r"(?<!far )(?<!soon )(?<!long )(?<!well )as it is": "unchanged, current",
    r"the house": "package layout",
    r"rooms?": "package, space",
    r"coin toss": "say n and the interval",
    r"first look": "say n and the interval",
    r"accus(?:e|es|ed|ing)(?! of charity fraud\b)": "reports, flags",
    r"it (?:says|knows)": "reports, records",
    r"layers? that (?:go|goes)": "removed layers",
    r"(?:takes?|taking|taken|took) (?:\w+ ){0,2}layers out": "remove",
    r"uncut models?": "original model",
    r"(?<!to )(?<!never )cut models?": "pruned model",
    r"(?:not|no longer|none is|never) (?:itself )?shown to": "no significant difference, too few items to tell",
    r"read out in two ways": "scored by likelihood and by generation",
}
"""Coined terms as regular expressions of whole words, and what to write instead."""
_COINED = re.compile("|".join(rf"(?P<_{i}>\b(?:{term})\b)" for i, term in enumerate(COINED)), re.IGNORECASE)
_CODE = re.compile(r"``[^`]*``|`[^`\n]*`|\{[^{}]*\}|https?://\S+|\S+/\S+")
"""Code, placeholders, addresses and paths: names are checked by other means than a word list."""
_MODULE_LINE = re.compile(r"^\s+\w+(?:\.py|/)\s{2,}.*$", re.MULTILINE)
"""A line of the generated source tree: the docstring that it repeats is checked in its file."""


def coined(text: str) -> list[str]:
    """A line for every coined term in a text, also where a line break or two joined literals divide it."""
    text = _CODE.sub(" CODE ", text)
    text = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*[fr]{0,2}"|\n\s*#:? ', " ", text))
    return [
        f"{match[0]!r} (write: {list(COINED.values())[int((match.lastgroup or '')[1:])]}) in: "
        f"...{text[max(0, match.start() - 50) : match.end() + 40]}..."
        for match in _COINED.finditer(text)
    ]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Strings and comments of a Python file with their lines; neighbours belong to one text."""
    line, text, comment = 0, "", False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            continue
        is_text, is_comment = token.type in (tokenize.STRING, tokenize.COMMENT), token.type == tokenize.COMMENT
        if text and not (is_text and is_comment == comment):
            yield line, text
            text = ""
        if is_text:
            line, comment = (line if text else token.start[0]), is_comment
            text += ("\n" if text else "") + token.string
    if text:
        yield line, text


def is_name(text: str) -> bool:
    """True for a name, such as a key on disk: one word without a space."""
    return " " not in text.strip()


def findings() -> Iterator[str]:
    """A line for every coined word in the pages and the source."""
    for page in PAGES:
        for part in re.split(r"\n\s*\n", _MODULE_LINE.sub("", page.read_text(encoding="utf-8"))):
            yield from (f"{page.relative_to(ROOT)}: {one}" for one in coined(part))
    for file in sorted(SOURCE.rglob("*.py")):
        for line, text in texts(file.read_text(encoding="utf-8")):
            if not is_name(text):
                yield from (f"{file.relative_to(ROOT)}:{line}: {one}" for one in coined(text))


if __name__ == "__main__":
    for finding in findings():
        print(f"warning: {finding}")
