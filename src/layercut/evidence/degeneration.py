"""Degeneration of written texts: E2 of arXiv:2602.01997, where short texts are left out; here they count."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from layercut.evidence.diagnosis import Diagnosis, item_rows

NAME = "degeneration"
FEWEST_REPEATS = 3
LONGEST_UNIT = 200
LOOPS = 0.25
"""A text loops if its longest loop is at least this share of it, and at least ``LEAST_LOOP`` characters."""
LEAST_LOOP = 40
HEADLINES = ("loops", "empty", "Rep-4")
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def measure_texts(texts: Mapping[str, Sequence[tuple[str, str]]], *, seed: int) -> Diagnosis:
    """A row for each measure and pruned model, by name, the original first; each text comes with its finish reason."""
    measures = {model: [measure_text(*text) for text in of_model] for model, of_model in texts.items()}
    rows = item_rows(NAME, measures, seed=seed, higher=("length",), headlines=HEADLINES)
    note = "Texts shorter than n words count as Rep-n 0, single sentences as Self-BLEU 0."
    finish = {model: dict(Counter(reason for _, reason in of_model)) for model, of_model in texts.items()}
    return {"rows": rows, "data": {"finish": finish}, "notes": [note]}


def measure_text(text: str, finish_reason: str) -> dict[str, float]:
    """All measures of one text, by name, in the order of a report."""
    words = words_of(text)
    return {
        "loops": longest_loop(text) >= max(LEAST_LOOP, LOOPS * len(text)),
        "empty": not text.strip(),
        **{f"Rep-{n}": repeated_share(words, n) for n in (4, 3, 2)},
        "Self-BLEU-4": self_bleu(text),
        "no end within the limit": finish_reason == "length",
        "length": len(words),
    }


def words_of(text: str) -> list[str]:
    """Words and signs of punctuation, in lower case."""
    return _WORD.findall(text.lower())


def sentences_of(text: str) -> list[str]:
    """Sentences and lines that have a word in them."""
    return [part for part in _SENTENCE.split(text) if _WORD.search(part)]


def repeated_share(words: Sequence[str | int], n: int) -> float:
    """Rep-n: 1 - distinct n-grams / n-grams, from 0 (none comes twice) to nearly 1; 0 for fewer than n words.

    Welleck et al., "Neural Text Generation with Unlikelihood Training", arXiv:1908.04319 (seq-rep-n).

    >>> repeated_share("a b a b a b".split(), 2), repeated_share("a".split(), 2)
    (0.6, 0.0)
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(text: str) -> float:
    """Intra-response Self-BLEU-4: the mean BLEU-4 of each sentence against the others, 0 to 1; 0 for fewer than two.

    Zhu et al., "Texygen", arXiv:1802.01886, within one response as in arXiv:2602.01997. BLEU is sacrebleu's, with its
    exponential smoothing and effective order, so that short sentences have one too.
    """
    sentences = sentences_of(text)
    if len(sentences) < 2:
        return 0.0
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(lowercase=True, effective_order=True)
    others = ([*sentences[:place], *sentences[place + 1 :]] for place in range(len(sentences)))
    scores = [bleu.sentence_score(*pair).score for pair in zip(sentences, others, strict=True)]
    return float(np.mean(scores)) / 100


def longest_loop(text: str) -> int:
    """Characters of the longest stretch that is one unit, of at most 200 characters, at least three times in a row.

    Searched in characters, so that a loop inside one endless word is seen as well. White space alone is no loop.

    >>> longest_loop("so it goes and goes and goes and goes."), longest_loop("abab"), longest_loop("haaaaa")
    (32, 0, 5)
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    longest = 0
    for period in range(1, min(LONGEST_UNIT, len(codes) // FEWEST_REPEATS) + 1):
        # Between two places that differ from the one a period before them, the text repeats.
        breaks = np.concatenate([[-1], np.flatnonzero(codes[period:] != codes[:-period]), [len(codes) - period]])
        lengths = np.diff(breaks) - 1 + period
        for place in np.flatnonzero(lengths >= max(longest + 1, FEWEST_REPEATS * period)):
            start, length = int(breaks[place]) + 1, int(lengths[place])
            if length > longest and text[start : start + length].strip():
                longest = length
    return longest
