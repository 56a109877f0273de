"""Kinds of the tokens of an answer, and the first difference of two answers."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from typing import Literal

Kind = Literal["answer", "digit", "operator", "bracket", "keyword", "other"]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
_OPERATORS = frozenset("+-*/=<>%^×÷−")
_BRACKETS = frozenset("()[]{}")


def kinds_of(pieces: Sequence[str], *, answer: tuple[int, int] | None = None, code: bool = False) -> list[Kind]:
    """The kind of every token of a text.

    ``answer`` where it has a character of the final answer that is no white space; else ``digit``, ``operator`` or
    ``bracket`` by its first character that is no white space; ``keyword`` for Python's words, in code only, because
    "in" and "is" are words of other texts as well; else ``other``.

    >>> kinds_of([" 3", " *", " (", "6", ")", " is", " 18"], answer=(12, 15))
    ['digit', 'operator', 'bracket', 'digit', 'bracket', 'other', 'answer']

    Args:
        pieces: the tokens' texts, which together are the text.
        answer: the characters of the final answer, from (inclusive) to (exclusive).
        code: whether the text is Python.
    """
    kinds: list[Kind] = []
    start = 0
    for piece in pieces:
        bare = piece.strip()
        first = start + len(piece) - len(piece.lstrip())
        start += len(piece)
        if answer is not None and bare and first < answer[1] and first + len(bare) > answer[0]:
            kinds.append("answer")
        elif bare[:1].isdigit():
            kinds.append("digit")
        elif bare[:1] in _OPERATORS and bare:
            kinds.append("operator")
        elif bare[:1] in _BRACKETS and bare:
            kinds.append("bracket")
        elif code and keyword.iskeyword(bare):
            kinds.append("keyword")
        else:
            kinds.append("other")
    return kinds


def kept_pieces(pieces: Sequence[str], text: str) -> list[bool]:
    """For every piece of one text, whether another text has the same characters at the same place.

    After two texts have parted they rarely meet again, unless what differs has the same length.

    >>> kept_pieces([" 1", "2", "\\n"], " 17\\n")
    [True, False, True]
    """
    kept, start = [], 0
    for piece in pieces:
        kept.append(text[start : start + len(piece)] == piece)
        start += len(piece)
    return kept


def first_wrong(pieces: Sequence[str], text: str) -> int | None:
    """Index of the first piece that the other text does not have; None if it has them all.

    >>> first_wrong([" 1", "2"], " 17"), first_wrong([" 1", "2"], " 12 and more")
    (1, None)
    """
    kept = kept_pieces(pieces, text)
    return kept.index(False) if False in kept else None
