from __future__ import annotations

import pytest
from sacrebleu.metrics.bleu import BLEU

from layercut.diagnostics.degeneration import NUM_OPENINGS, openings
from layercut.evidence.degeneration import (
    distinct,
    is_broken,
    longest_loop,
    measure_text,
    repetition,
    self_bleu,
    words_of,
)
from tests.support.patient import prose


def test_repetition_counts_ngrams() -> None:
    words = ["the", "cat", "and", "the", "cat", "and", "the", "dog"]
    # 7 pairs: the cat, cat and, and the, the cat, cat and, and the, the dog: 4 different.
    assert repetition(words, 2) == pytest.approx(1 - 4 / 7)
    assert repetition(words, 3) == pytest.approx(1 - 4 / 6)
    assert distinct(words, 1) == pytest.approx(4 / 8)
    assert repetition([], 2) == repetition(["a"], 4) == distinct([], 1) == 0
    assert words_of("Don't stop: 3x!") == ["don", "'", "t", "stop", ":", "3x", "!"]


def test_self_bleu_is_the_mean_over_sentences() -> None:
    text = "The cat sat on the mat today. The cat sat on the mat alone. Nobody knows why it rained so hard."
    parts = text.replace(". ", ".|").split("|")
    bleu = BLEU(lowercase=True, effective_order=True)
    by_hand = [bleu.sentence_score(p, [o for o in parts if o != p]).score / 100 for p in parts]
    assert self_bleu(text) == pytest.approx(sum(by_hand) / 3)
    assert self_bleu("Same words here now. Same words here now.") == pytest.approx(1)
    assert self_bleu("One sentence alone") == self_bleu("") == 0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("", 0),
        ("abc", 0),
        ("abcabc", 0),
        ("abcabcabc", 9),
        ("xabcabcabcab", 11),
        ("\n\n\n\n\n\n", 0),
        ("word " * 3 + "end", 15),
        ("0" * 50, 50),
    ],
)
def test_longest_loop(text: str, length: int) -> None:
    assert longest_loop(text) == length


def test_prose_is_healthy_and_a_loop_is_not() -> None:
    healthy, loop = prose("x"), "No." + " And so on" * 40
    assert measure_text(healthy, "stop").items() >= {"loops": False, "Rep-4": 0, "empty": False}.items()
    assert measure_text(loop, "stop")["loops"] and measure_text(loop, "stop")["Rep-4"] > 0.9
    nothing = {"empty": True, "no end within the limit": True, "loops": False, "longest loop": 0}
    assert measure_text("", "length").items() >= nothing.items()
    assert [is_broken(text) for text in (healthy, loop, "")] == [False, True, True]


def test_openings_differ_and_grow() -> None:
    assert len(set(openings(1000, 0).values())) == NUM_OPENINGS
    assert list(openings(7, 3)) == list(openings(20, 3))[:7]
