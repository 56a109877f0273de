"""Normalise texts for comparison: lower case, words and signs, and n-grams of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+|[^\w\s]")
Words = tuple[str, ...]


def words(text: str) -> Words:
    """A text normalised for comparison: lower case, words and signs one by one, so that ``12+3`` and ``12 + 3`` are the
    same.

    >>> words("What is 12+3?")
    ('what', 'is', '12', '+', '3', '?')
    """
    return tuple(_WORD.findall(text.casefold()))


def grams(text: Words, length: int) -> Iterator[Words]:
    """N-grams of words, from every word on; none of length 0."""
    if length:
        yield from (text[start : start + length] for start in range(len(text) - length + 1))
