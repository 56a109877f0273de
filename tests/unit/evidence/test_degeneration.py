"""Loops are those that a plain search finds."""

from __future__ import annotations

from random import Random

import pytest

from layercut.evidence.degeneration import (
    FEWEST_REPEATS,
    longest_loop,
    measure_text,
    repeated_share,
    self_bleu,
    words_of,
)
from tests.support.patient import prose

WORDS = ("the", "cat", "Sat", "x1", "(", ")", "don't", "e.g.", "3.5", "and")


def random_text(rng: Random) -> str:
    """Sentences of few different words, some with a loop at the end."""
    text = "".join(
        " ".join(rng.choice(WORDS) for _ in range(rng.randrange(0, 9))) + rng.choice((". ", "\n", "! ", "?\n\n", ", "))
        for _ in range(rng.randrange(0, 10))
    )
    unit = "".join(rng.choice("ab \n") for _ in range(rng.randrange(1, 12)))
    return text + unit * rng.randrange(0, 7)


def test_equal_sentences_are_all_repetition() -> None:
    assert self_bleu("Same words here now. Same words here now.") == pytest.approx(1)
    assert self_bleu("One sentence alone") == self_bleu("") == 0


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
    assert [longest_loop(text) for text in ("", "\n\n\n\n", "abcabc", "xabcabcabcab", "0" * 50)] == [0, 0, 0, 11, 50]


def test_repetition_counts_ngrams() -> None:
    words = ["the", "cat", "and", "the", "cat", "and", "the", "dog"]
    # 7 pairs: the cat, cat and, and the, the cat, cat and, and the, the dog: 4 different.
    assert repeated_share(words, 2) == pytest.approx(1 - 4 / 7)
    assert repeated_share(words, 3) == pytest.approx(1 - 4 / 6)
    assert repeated_share([], 2) == repeated_share(["a"], 4) == 0
    assert words_of("Don't stop: 3x!") == ["don", "'", "t", "stop", ":", "3x", "!"]


def test_prose_is_healthy_and_a_loop_is_not() -> None:
    healthy, loop = prose("x"), "No." + " And so on" * 40
    assert measure_text(healthy, "stop").items() >= {"loops": False, "Rep-4": 0, "empty": False}.items()
    assert measure_text(loop, "stop")["loops"] and measure_text(loop, "stop")["Rep-4"] > 0.9
    nothing = {"empty": True, "no end within the limit": True, "loops": False}
    assert measure_text("", "length").items() >= nothing.items()
