"""Plain words: docs, help, messages, docstrings and comments use the words of the field, not coined ones."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "layercut"
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if page.name != "CHANGELOG.md")
"""All pages but the changelog, which is a record: what was said of a version is not written again."""
FILES = sorted(SOURCE.rglob("*.py"))

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
"""A line of the generated source tree: the docstring that it repeats is checked where it stands."""


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
    """Whether a text is a name, such as a key on disk: one word without a space."""
    return " " not in text.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_plain_words(page: Path) -> None:
    text = _MODULE_LINE.sub("", page.read_text())
    found = [line for part in re.split(r"\n\s*\n", text) for line in coined(part)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_messages_docstrings_and_comments_use_plain_words(file: Path) -> None:
    found = [f"{line}: {one}" for line, text in texts(file.read_text()) if not is_name(text) for one in coined(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "seed: root of all chance.",
        "the examples that are learnt",
        "Whoever asks is told.",
        "asks its items in heats of 16",
        "runs behind walls",
        "a record of the bench as text",
        "Where a walk ended.",
        "where two answers part from each other",
        "Only the first so many items.",
        "Findings go by it.",
        "the removed layers in turn",
        "the model as it is",
        "## The house",
        "which room may use which",
        "a measure accuses where",
        "The page: it says what broke",
        "choose the layers that go",
        "a plan takes three layers out",
        "an answer of the uncut\nmodel",
        "# a cut\n# model",
        'raise InputError(f"{name} is not "\n    f"shown to be above chance")',
    ],
)
def test_a_planted_sentence_is_caught(sentence: str) -> None:
    assert coined(sentence)
    code = sentence if sentence.startswith(("#", "raise")) else f'"""{sentence}"""\n'
    assert [one for _, text in texts(code) for one in coined(text)], "in a Python file too"


@pytest.mark.parametrize(
    "sentence",
    [
        "a heat map of hidden states over the wall clock time",
        "BIG-bench's tasks, and a benchmark",
        "as soon as it is known, as far as it is wanted",
        "see ``learnt`` and `runs/walk/told.json`",
        "the original model beside uncut scores; to cut models, see below",
        "what went wrong; many so-called names",
    ],
)
def test_plain_sentences_pass(sentence: str) -> None:
    assert not coined(sentence)
