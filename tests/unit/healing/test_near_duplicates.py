from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("datasketch", reason="needs layercut[heal]")

from layercut.healing.near_duplicates import N, SeenTexts, grams, jaccard, words


def similarity(one: str, other: str) -> float:
    return jaccard(*(frozenset(grams(words(text), min(N, len(words(text))))) for text in (one, other)))


def changed(rng: Random, text: list[str], times: int) -> list[str]:
    other = list(text)
    for place in rng.sample(range(len(other)), times):
        other[place] = f"new{rng.randrange(1000)}"
    return other


def test_it_finds_what_comparing_all_pairs_finds() -> None:
    rng = Random(7)
    texts: list[str] = []
    for _ in range(120):
        base = [f"w{rng.randrange(300)}" for _ in range(rng.randrange(3, 90))]
        texts += [" ".join(base), " ".join(changed(rng, base, rng.randrange(0, min(4, len(base)))))]
    rng.shuffle(texts)
    for threshold in (0.3, 0.6, 0.8):
        seen, kept, missed = SeenTexts(threshold), [], 0
        for text in texts:
            alike = any(similarity(text, other) >= threshold for other in kept)
            found = seen.has(text)
            assert alike or not found, "a text was taken for one that it is not like"
            missed += alike and not found
            if not alike:
                kept.append(text)
                seen.add(text)
        assert len(kept) < len(texts) - 20
        assert missed <= 1


@pytest.mark.parametrize("threshold", [0.8, 1.0])
def test_texts_of_a_few_words_are_like_themselves_alone(threshold: float) -> None:
    seen = SeenTexts(threshold)
    seen.add("What is 7 + 5?")
    assert seen.has("what is 7+5 ?")
    assert not seen.has("What is 7 + 6?")
    assert not seen.has("")
    seen.add("")
    assert seen.has("  ")


def test_one_other_word_in_fifty_is_four_fifths_and_one_in_twenty_is_half() -> None:
    for count, expected in ((50, 0.80), (20, 0.52)):
        text = [f"w{number}" for number in range(count)]
        other = [*text[: count // 2], "else", *text[count // 2 + 1 :]]
        assert similarity(" ".join(text), " ".join(other)) == pytest.approx(expected, abs=0.005)
