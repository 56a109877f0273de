"""The first token in which two answers differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIECE = re.compile(r"\s*(?:[0-9]|[^\W\d]+|[^\w\s])|\s+")
"""A digit, a word or a sign, with the white space before it."""


def first_difference(uncut: str, cut: str, tokens: Sequence[str] = ()) -> tuple[int, int]:
    """Where the first wrong token of the cut answer begins and ends; the same place twice where there is none.

    Tokens are those of the uncut answer where they are known, else digits, words and signs.

    >>> first_difference("7 + 5 = 12", "7 + 5 = 17")
    (9, 10)
    """
    same = next((i for i, (a, b) in enumerate(zip(uncut, cut, strict=False)) if a != b), min(len(uncut), len(cut)))
    start = 0
    for piece in tokens or _PIECE.findall(uncut):
        if start + len(piece) > same:
            break
        start += len(piece)
    wrong = _PIECE.match(cut, start)
    return start, max(wrong.end() if wrong else start, min(same + 1, len(cut)))
