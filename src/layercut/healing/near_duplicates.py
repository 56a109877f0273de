"""Near duplicates among texts: MinHash finds candidates, exact word n-grams decide. The only file that imports
datasketch.

Similarity is Jaccard's, |A & B| / |A | B|, of the sets of 5 words in a row (Broder 1997; as for web text in Lee et al.,
"Deduplicating Training Data Makes Language Models Better", arXiv:2107.06499). One other word in the middle of a text of
50 words leaves 0.80, of 20 words 0.52, so that short problems that differ in a number stay apart. A text of fewer than
5 words is like another only if it is the same.
"""

from __future__ import annotations

from layercut.errors import MissingExtra
from layercut.healing.words import Words, grams, words

N = 5
"""Words in a row."""
_NUM_HASHES = 128
_RECALL = 0.99


class SeenTexts:
    """Texts that were let in, to be asked whether a further one is too much like any of them."""

    def __init__(self, similarity: float) -> None:
        """Nothing was seen yet.

        Args:
            similarity: from which on a text counts as seen; 1 for texts that are the same but for case and spacing.

        Raises:
            MissingExtra: a similarity below 1, and datasketch is not installed.
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
        """Whether a text that was added says the same, or almost.

        One of just that similarity is found with a probability of at least 99 %, a more similar one more surely; what
        is found was compared in full, so no text is taken for a less similar one.
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
        """Let a text in."""
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
    """Bands and hashes a band: as many a band as find texts of just this similarity often enough."""
    for rows in range(_NUM_HASHES // 2, 1, -1):
        bands = _NUM_HASHES // rows
        if 1 - (1 - similarity**rows) ** bands >= _RECALL:
            return bands, rows
    return _NUM_HASHES, 1
