from __future__ import annotations

import pytest
from sacrebleu.metrics.bleu import BLEU

from layercut.diagnostics.degeneration import NUM_OPENINGS, openings
from layercut.evidence.degeneration import (
    distinct,
    longest_loop,
    look,
    paper_self_bleu,
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


def test_self_bleu_as_the_paper_computes_it() -> None:
    # Seven words each with the full stop: 6 of 7 words, 4 of 6 pairs, 3 of 5 triples and 2 of 4 quadruples are shared.
    same = (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25
    text = "The cat sat on a mat. the Cat sat on a rug."
    assert paper_self_bleu(text) == pytest.approx(same)
    assert paper_self_bleu(f"{text} Yes.") == pytest.approx(same), "two words are no sentence to compare"
    # 4 of 6 words, 2 of 5 pairs, 1 of 4 triples, and none of 3 quadruples, for which 0.1 stands.
    near = (4 / 6 * 2 / 5 * 1 / 4 * 0.1 / 3) ** 0.25
    assert paper_self_bleu("One two three four five. One two three six seven.") == pytest.approx(near)
    assert paper_self_bleu("One sentence of five words.\nAnd more") is None
    assert paper_self_bleu("") is paper_self_bleu("Yes. No.") is None


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
    texts = (prose("x"), "No." + " And so on" * 40)
    healthy, loop = (look(text, "stop") for text in texts)
    assert (healthy["loops"], healthy["rep_4"], healthy["empty"]) == (False, 0, False)
    assert loop["loops"]
    assert loop["rep_4"] > 0.9
    nothing = look("", "length")
    assert (nothing["empty"], nothing["endless"], nothing["loops"], nothing["loop_share"]) == (True, True, False, 0)


def test_openings_differ_and_grow() -> None:
    assert len(set(openings(1000, 0).values())) == NUM_OPENINGS
    assert list(openings(7, 3)) == list(openings(20, 3))[:7]
