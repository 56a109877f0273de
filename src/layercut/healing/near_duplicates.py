"""Texts as words, and near duplicates among them: MinHash finds candidates, exact word n-grams decide. The only file
that imports datasketch.

Similarity is Jaccard's, |A & B| / |A | B|, of the sets of 5 words in a row (Broder 1997; for web text Lee et al.,
"Deduplicating Training Data Makes Language Models Better", arXiv:2107.06499). With one other word in the middle, two
texts of 50 words have 0.80 and two of 20 words 0.52, so short problems that differ in a number are not duplicates. A
text of fewer than 5 words is similar only to itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from layercut.errors import MissingExtra

Words = tuple[str, ...]
_WORD = re.compile(r"\w+|[^\w\s]")
N = 5
_NUM_HASHES = 128
_RECALL = 0.99


def words(text: str) -> Words:
    """A text normalised for comparison: lower case, words and signs one by one, so ``12+3`` equals ``12 + 3``.

    >>> words("What is 12+3?")
    ('what', 'is', '12', '+', '3', '?')
    """
    return tuple(_WORD.findall(text.casefold()))


def grams(text: Words, length: int) -> Iterator[Words]:
    """All n-grams of words; none of length 0."""
    if length:
        yield from (text[start : start + length] for start in range(len(text) - length + 1))


class SeenTexts:
    """Texts that were added, and the question whether a further one is too similar to any of them."""

    def __init__(self, similarity: float) -> None:
        """``similarity``: from which on a text counts as seen. Below 1 (equal words) it needs datasketch
        (MissingExtra).
        """
        self._similarity = similarity
        self._same: set[Words] = set()
        self._kept: list[Words] = []
        if similarity < 1:
            try:
                from datasketch import MinHash, MinHashLSH
            except ImportError as error:
                raise MissingExtra("finding texts that are almost the same", "heal") from error
            self._empty = MinHash(num_perm=_NUM_HASHES)
            self._index = MinHashLSH(num_perm=_NUM_HASHES, params=_bands(similarity))

    def has(self, text: str) -> bool:
        """Whether an added text is the same or similar enough.

        A text of exactly that similarity is found with a probability of at least 99 %, a more similar one more surely.
        Every candidate is compared in full, so a less similar text is never found.
        """
        said = words(text)
        if said in self._same:
            return True
        if self._similarity == 1:
            return False
        shingles = _shingles(said)
        alike = self._index.query(self._sketch(shingles))
        return any(jaccard(shingles, _shingles(self._kept[index])) >= self._similarity for index in alike)

    def add(self, text: str) -> None:
        said = words(text)
        self._same.add(said)
        if self._similarity < 1:
            self._index.insert(len(self._kept), self._sketch(_shingles(said)))
            self._kept.append(said)

    def _sketch(self, shingles: frozenset[Words]) -> object:
        sketch = self._empty.copy()
        sketch.update_batch([" ".join(shingle).encode("utf-8", "surrogatepass") for shingle in shingles])
        return sketch


def jaccard(one: frozenset[Words], other: frozenset[Words]) -> float:
    """Shared n-grams over all of both; 1 for two texts without any.

    >>> a, b = frozenset(grams(words("a b c"), 1)), frozenset(grams(words("b c d"), 1))
    >>> jaccard(a, b)
    0.5
    """
    return len(one & other) / len(one | other) if one or other else 1.0


def _shingles(said: Words) -> frozenset[Words]:
    return frozenset(grams(said, min(N, len(said))))


def _bands(similarity: float) -> tuple[int, int]:
    """Bands and hashes a band: the most hashes that still find texts of this similarity often enough."""
    for rows in range(_NUM_HASHES // 2, 1, -1):
        bands = _NUM_HASHES // rows
        if 1 - (1 - similarity**rows) ** bands >= _RECALL:
            return bands, rows
    return _NUM_HASHES, 1
