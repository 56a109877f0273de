"""Options with letters: how they are listed, and which one an answer in the model's own words names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

LETTERS = ascii_uppercase
SHORT = "Answer with the letter of the right option and nothing else."
CHAIN = 'Think step by step, and end with "The answer is X.", where X is the letter of the right option.'

_MARK = re.compile(r"\banswer(?:\s+is\b|\s*:)\s*:?", re.IGNORECASE)
_LETTER = re.compile(r"\(?(?P<letter>[A-Z])(?:(?P<mark>[).:,]+)\s*|\s+|$)(?P<rest>.*)", re.DOTALL)
_DRESS = " \t*_`\"'"


class Found(NamedTuple):
    """An option that a text names."""

    letter: str
    start: int  # characters before it


def lettered(options: Sequence[str]) -> str:
    r"""One option a line.

    >>> lettered(["red", "blue"])
    'A. red\nB. blue'
    """
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def are_letters(options: Sequence[str]) -> bool:
    """True if the options are letters already, because the question lists them itself, as MMLU's does.

    >>> are_letters(["A", "B"]), are_letters(["A", "C"])
    (True, False)
    """
    return "".join(options) == LETTERS[: len(options)]


def letters(options: Sequence[str]) -> list[str]:
    """One letter for each option.

    >>> letters(["red", "blue"])
    ['A', 'B']
    """
    return list(LETTERS[: len(options)])


def find_short(text: str, options: Sequence[str]) -> Found | None:
    """The option that the first line with any text names, by its letter or by its own words.

    A letter counts alone ("B", "(B)", "**B**"), with a mark behind it ("B. blue", "B) because ..."), or with its own
    option behind it ("B blue"). "A blue one" names no option A. Words count if they are one option's and nothing else,
    whatever their case; a full stop at the end does not matter. "The answer is" and "Answer:" may stand before either.

    >>> [found and found.letter for found in (find_short(text, ["red", "a blue one"]) for text in (
    ...     "B", "(b)", " Answer: **A**", "A. red", "A blue one.", "A nice day", "red or blue", "C"))]
    ['B', None, 'A', 'A', 'B', None, None, None]
    """
    start = len(text) - len(text.lstrip())
    line = text[start:].partition("\n")[0]
    mark = _MARK.search(line)
    if mark and _only_words_before(line[: mark.start()]):
        return _named(line[mark.end() :], options, start + mark.end())
    return _named(line, options, start)


def find_chain(text: str, options: Sequence[str]) -> Found | None:
    """The option that stands behind the last "the answer is" or "Answer:", by the rules of ``find_short``.

    A chain without these words has no answer, whatever letters stand in it. Behind them, the sentence is read first,
    then the whole line.

    >>> [found and found.letter for found in (find_chain(text, ["red", "blue"]) for text in (
    ...     "A is warm. The answer is B.", "the answer is A. No, the answer is (B) blue.", "Answer: blue", "So B."))]
    ['B', 'B', 'B', None]
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    end = marks[-1].end()
    line = text[end:].partition("\n")[0]
    return _named(line.partition(". ")[0], options, end) or _named(line, options, end)


def _only_words_before(text: str) -> bool:
    return text.strip(_DRESS).lower() in ("", "the", "the correct", "the right", "the best", "my", "so the", "correct")


def _named(line: str, options: Sequence[str], start: int) -> Found | None:
    start += len(line) - len(line.lstrip(_DRESS))
    bare = line.replace("*", "").strip(_DRESS)
    words = [_words(option) for option in options]
    if words.count(_words(bare)) == 1:
        return Found(LETTERS[words.index(_words(bare))], start)
    match = _LETTER.fullmatch(bare)
    if match is None or match["letter"] not in LETTERS[: len(options)]:
        return None
    letter, rest = match["letter"], match["rest"]
    is_named = match["mark"] or not rest or _words(rest) == words[LETTERS.index(letter)]
    return Found(letter, start) if is_named else None


def _words(text: str) -> str:
    return " ".join(text.strip(_DRESS).casefold().removesuffix(".").split())
