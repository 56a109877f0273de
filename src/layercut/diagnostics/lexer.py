"""Find the first error in the brackets or strings of a Python program."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Trouble = Literal["never_closed", "unmatched", "mismatched", "unterminated_string"]
CLOSING = {"(": ")", "[": "]", "{": "}"}
_STRING = re.compile(r"(?i:\b[rbuft]{1,2})?(\"\"\"|'''|\"|')")
_NEXT = re.compile(r"#[^\n]*|(?i:\b[rbuft]{1,2})?(?:\"\"\"|'''|\"|')|[()\[\]{}]")


class SyntaxProblem(NamedTuple):
    """What is wrong, and where it begins."""

    kind: Trouble
    line: int
    """From 1: of the bracket that is never closed or does not fit, or of the string's first quote."""


def first_problem(source: str) -> SyntaxProblem | None:
    """Read a program with a stack of open brackets, past comments and strings; None if all brackets and strings fit.

    A closing bracket without an open one is ``unmatched``; one of another kind than the last open one ``mismatched``;
    what is open at the end ``never_closed``, the first one named. A string in single quotes that does not end on
    its line, or one in triple quotes that does not end at all, is an ``unterminated_string``. Quotes of the same kind
    inside the braces of an f-string (Python 3.12) are taken for its end, so ask only about programs that do not
    compile.

    >>> first_problem("f(1, [2)")
    SyntaxProblem(kind='mismatched', line=1)
    >>> first_problem("x = (1,\\ny = '(' # )")
    SyntaxProblem(kind='never_closed', line=1)
    """
    stack: list[tuple[str, int]] = []
    place = 0
    while found := _NEXT.search(source, place):
        piece, place = found[0], found.end()
        if piece.startswith("#"):
            continue
        if piece in CLOSING:
            stack.append((piece, _line(source, found.start())))
        elif piece in CLOSING.values():
            here = _line(source, found.start())
            if not stack:
                return SyntaxProblem("unmatched", here)
            if CLOSING[stack.pop()[0]] != piece:
                return SyntaxProblem("mismatched", here)
        else:
            end = _string_end(source, found.end(), piece)
            if end is None:
                return SyntaxProblem("unterminated_string", _line(source, found.start()))
            place = end
    return SyntaxProblem("never_closed", stack[0][1]) if stack else None


def _string_end(source: str, start: int, opening: str) -> int | None:
    """Where the text goes on behind a string; None if it does not end. A backslash keeps a quote from ending it, in raw
    strings too."""
    parts = _STRING.fullmatch(opening)
    assert parts, opening
    quote = parts[1]
    place = start
    while place < len(source):
        if source[place] == "\\":
            place += 2
        elif source.startswith(quote, place):
            return place + len(quote)
        elif source[place] == "\n" and len(quote) == 1:
            return None
        else:
            place += 1
    return None


def _line(source: str, place: int) -> int:
    return source.count("\n", 0, place) + 1
