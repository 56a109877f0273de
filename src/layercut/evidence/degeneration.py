"""Degeneration of written texts: loops, repetition, empty and endless answers, original beside pruned models.

Measure E2 of arXiv:2602.01997, with every text counted. There, texts shorter than n words have no Rep-n and texts
of one sentence no Self-BLEU, so the worst responses are excluded. Here they count as texts without repetition, and
the share of empty ones is reported too. Self-BLEU is given both ways: see ``self_bleu`` and ``paper_self_bleu``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from layercut.evidence.diagnosis import MeasureRow, measure_rows

NAME = "degeneration"
FEWEST_REPEATS = 3
LONGEST_UNIT = 200
LOOPS = 0.25
"""A text loops if its longest loop is at least this share of it, and at least ``LEAST_LOOP`` characters."""
LEAST_LOOP = 40
FEWEST_WORDS = 4
"""Words of a text that has a Rep-4."""
_PAPER_ORDER = 4
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")

Look = Mapping[str, Any]
"""All measures of one text, by name; ``paper_self_bleu`` may be None."""


def degeneration_rows(
    looks: Mapping[str, Sequence[Look]], *, seed: int, clusters: Sequence[str] | None = None
) -> list[MeasureRow]:
    """A row for each measure and pruned model.

    Args:
        looks: by name of the model, the original one first: ``look`` of each text, in the same order.
    """

    def values(name: str) -> dict[str, list[float]]:
        return {arm: [float(found[name]) for found in of_arm] for arm, of_arm in looks.items()}

    rows = partial(measure_rows, NAME, seed=seed, clusters=clusters)
    return [
        *rows("loops", values("loops"), better="lower", headline=True),
        *rows("empty", values("empty"), better="lower", headline=True),
        *rows("Rep-4", values("rep_4"), better="lower", headline=True),
        *rows("Rep-3", values("rep_3"), better="lower"),
        *rows("Rep-2", values("rep_2"), better="lower"),
        *rows("Self-BLEU-4", values("self_bleu"), better="lower"),
        *(row for arm in list(looks)[1:] or looks for row in _paper_rows(looks, arm, seed, clusters)),
        *rows("distinct-1", values("distinct_1")),
        *rows("distinct-2", values("distinct_2")),
        *rows("longest loop", values("loop_share"), better="lower"),
        *rows("no end within the limit", values("endless"), better="lower"),
        *rows("length", values("words"), unit="words"),
    ]


def degeneration_notes(looks: Mapping[str, Sequence[Look]]) -> list[str]:
    """Counts of texts that count as without repetition, and of those with the paper's Self-BLEU."""
    short = _counts(looks, lambda found: found["words"] < FEWEST_WORDS)
    single = _counts(looks, lambda found: found["sentences"] < 2)
    scored = _counts(looks, lambda found: found["paper_self_bleu"] is not None)
    return [
        f"Shorter than four words, counted as without repetition: {short}. A single sentence, counted as Self-BLEU 0: "
        f"{single}.",
        "Self-BLEU-4 (paper) leaves out responses without two sentences of four words; it compares those that both "
        f"models have. Responses that have one: {scored}.",
    ]


def look(text: str, finish_reason: str) -> Look:
    """All measures of one text, which ended by ``finish_reason``."""
    words = words_of(text)
    loop = longest_loop(text)
    return {
        **{f"rep_{n}": repetition(words, n) for n in (2, 3, 4)},
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2)},
        "self_bleu": self_bleu(text),
        "paper_self_bleu": paper_self_bleu(text),
        "loop_share": loop / len(text) if text else 0.0,
        "loops": loop >= max(LEAST_LOOP, LOOPS * len(text)),
        "empty": not text.strip(),
        "endless": finish_reason == "length",
        "words": len(words),
        "sentences": len(sentences_of(text)),
    }


def words_of(text: str) -> list[str]:
    """Words and signs of punctuation, in lower case."""
    return _WORD.findall(text.lower())


def sentences_of(text: str) -> list[str]:
    """Sentences and lines that have a word in them."""
    return [part for part in _SENTENCE.split(text) if _WORD.search(part)]


def repetition(words: Sequence[str], n: int) -> float:
    """Rep-n: 1 - distinct n-grams / n-grams, from 0 (none comes twice) to nearly 1; 0 for fewer than n words.

    Welleck et al., "Neural Text Generation with Unlikelihood Training", arXiv:1908.04319 (seq-rep-n).

    >>> repetition("a b a b a b".split(), 2), repetition("a".split(), 2)
    (0.6, 0.0)
    """
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(words: Sequence[str], n: int) -> float:
    """distinct-n: distinct n-grams / words; 0 for no words. Li et al., arXiv:1510.03055.

    >>> distinct("a b a b".split(), 1)
    0.5
    """
    return len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)}) / len(words) if words else 0.0


def self_bleu(text: str) -> float:
    """Intra-response Self-BLEU-4: the mean BLEU-4 of each sentence against the others, 0 to 1; 0 for fewer than two.

    Zhu et al., "Texygen", arXiv:1802.01886, within one response as in arXiv:2602.01997. BLEU is sacrebleu's, with its
    exponential smoothing and effective order, so that short sentences have one too.
    """
    sentences = sentences_of(text)
    if len(sentences) < 2:
        return 0.0
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    bleu = BLEU(lowercase=True, effective_order=True)
    counted = [extract_all_word_ngrams(bleu._preprocess_segment(one), 1, _PAPER_ORDER) for one in sentences]
    # What sentence_score counts, with the n-grams of each sentence counted once: for each n-gram, the largest number
    # in a sentence and the second largest, which is that of the others where the largest is the sentence's own.
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for grams, _ in counted:
        for gram, number in grams.items():
            largest, second = most.get(gram, (0, 0))
            most[gram] = (number, largest) if number > largest else (largest, max(second, number))
    scores = []
    for place, (grams, length) in enumerate(counted):
        correct, total = [0] * _PAPER_ORDER, [0] * _PAPER_ORDER
        for gram, number in grams.items():
            largest, second = most[gram]
            total[len(gram) - 1] += number
            correct[len(gram) - 1] += min(number, second if number == largest else largest)
        others = (other for index, (_, other) in enumerate(counted) if index != place)
        closest = min(others, key=lambda other: (abs(length - other), other))
        score = BLEU.compute_bleu(correct, total, length, closest, smooth_method="exp", effective_order=True)
        scores.append(score.score)
    return float(np.mean(scores)) / 100


def paper_self_bleu(text: str) -> float | None:
    """Intra-response Self-BLEU-4 as arXiv:2602.01997 computes it, 0 to 1; None where it has none.

    In small letters, sentences by NLTK's Punkt and words by NLTK; BLEU-4 of each sentence against the others with
    Chen and Cherry's first smoothing (0.1 in place of no match), without effective order. Sentences of fewer than four
    words take no part, and a response without two sentences has no score. Line breaks end no sentence. Punkt is used
    without its list of English abbreviations, which would have to be fetched: "e.g." ends a sentence here.

    >>> round(paper_self_bleu("A cat sat on a mat. A cat sat on a rug."), 3), paper_self_bleu("A cat sat on a mat.")
    (0.643, None)
    """
    from nltk.tokenize import word_tokenize
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    sentences = [word_tokenize(one, preserve_line=True) for one in PunktSentenceTokenizer().tokenize(text.lower())]
    scores = []
    for index, sentence in enumerate(sentences):
        others = [other for place, other in enumerate(sentences) if place != index and len(other) >= _PAPER_ORDER]
        if len(sentence) >= _PAPER_ORDER and others:
            scores.append(sentence_bleu(others, sentence, smoothing_function=SmoothingFunction().method1))
    return float(np.mean(scores)) if scores else None


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


def _paper_rows(
    looks: Mapping[str, Sequence[Look]], arm: str, seed: int, clusters: Sequence[str] | None
) -> list[MeasureRow]:
    """One pruned model against the original one, on the texts that have a score in both."""
    uncut = next(iter(looks))
    scores = [[found["paper_self_bleu"] for found in looks[name]] for name in (uncut, arm)]
    places = [place for place, pair in enumerate(zip(*scores, strict=True)) if None not in pair]
    before, after = ([of_arm[place] for place in places] for of_arm in scores)
    own = None if clusters is None else [clusters[place] for place in places]
    values = {uncut: before, arm: after}
    return measure_rows(NAME, "Self-BLEU-4 (paper)", values, better="lower", seed=seed, clusters=own)


def is_broken(found: Look) -> bool:
    """Return True for a text that loops or is empty."""
    return bool(found["loops"] or found["empty"])


def _counts(values: Mapping[str, Sequence[Any]], counts: Callable[[Any], bool]) -> str:
    """The number of values of each arm that count, as text."""
    return ", ".join(f"{arm} {sum(map(counts, of_arm))}" for arm, of_arm in values.items())
