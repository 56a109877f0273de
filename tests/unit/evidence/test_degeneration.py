"""Self-BLEU is sacrebleu's to the last bit, and loops are those that a plain search finds."""

from __future__ import annotations

from random import Random

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from layercut.evidence.degeneration import (
    FEWEST_REPEATS,
    longest_loop,
    self_bleu,
    sentences_of,
)

WORDS = ("the", "cat", "Sat", "x1", "(", ")", "don't", "e.g.", "3.5", "and")


def random_text(rng: Random) -> str:
    """Sentences of few different words, some with a loop at the end."""
    text = "".join(
        " ".join(rng.choice(WORDS) for _ in range(rng.randrange(0, 9))) + rng.choice((". ", "\n", "! ", "?\n\n", ", "))
        for _ in range(rng.randrange(0, 10))
    )
    unit = "".join(rng.choice("ab \n") for _ in range(rng.randrange(1, 12)))
    return text + unit * rng.randrange(0, 7)


def test_self_bleu_is_the_mean_of_sentence_scores() -> None:
    bleu, rng = BLEU(lowercase=True, effective_order=True), Random(3)
    for _ in range(200):
        text = random_text(rng)
        parts = sentences_of(text)
        if len(parts) < 2:
            assert self_bleu(text) == 0
            continue
        scores = [bleu.sentence_score(part, parts[:n] + parts[n + 1 :]).score for n, part in enumerate(parts)]
        assert self_bleu(text) == float(np.mean(scores)) / 100, text


def test_the_longest_loop_is_found() -> None:
    def plain(text: str) -> int:
        found = 0
        for start in range(len(text)):
            for period in range(1, (len(text) - start) // FEWEST_REPEATS + 1):
                end = start + period
                while end < len(text) and text[end] == text[end - period]:
                    end += 1
                if end - start >= FEWEST_REPEATS * period and text[start:end].strip():
                    found = max(found, end - start)
        return found

    rng = Random(4)
    for _ in range(100):
        text = random_text(rng)[-120:]
        assert longest_loop(text) == plain(text), text
