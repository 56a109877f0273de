"""Kinds of tokens, whose damage tells what a layer is needed for: results of sums, other digits, closing brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

TokenKind = Literal["result", "other digit", "closing bracket", "all else"]
KINDS: tuple[TokenKind, ...] = TokenKind.__args__  # type: ignore[attr-defined]
_RESULT = re.compile(r"=\s*(?:\\?\$)?\s*(\d[\d,.]*)")


def token_kinds(pieces: Sequence[str]) -> list[TokenKind]:
    r"""The kind of each token of a text.

    ``result``: digits of the number behind an equals sign; ``closing bracket``: ), ] or } in it.

    >>> token_kinds(["15", " +", " 2", " =", " ", "1", "7", "}"])
    ['other digit', 'all else', 'other digit', 'all else', 'all else', 'result', 'result', 'closing bracket']

    Args:
        pieces: the tokens' texts, which together are the text.
    """
    results = [found.span(1) for found in _RESULT.finditer("".join(pieces))]
    kinds: list[TokenKind] = []
    start = 0
    for piece in pieces:
        begin, end = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if piece.strip()[:1].isdigit():
            is_result = any(begin < last and end > first for first, last in results)
            kinds.append("result" if is_result else "other digit")
        else:
            kinds.append("closing bracket" if set(piece) & set(")]}") else "all else")
        start += len(piece)
    return kinds
