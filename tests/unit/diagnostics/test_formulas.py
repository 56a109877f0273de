from __future__ import annotations

import doctest
import importlib
import math

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

from layercut.diagnostics.arithmetic import KINDS, expressions, first_digits, value
from layercut.diagnostics.brackets import DEEPEST, nested
from layercut.diagnostics.cost import ratio
from layercut.diagnostics.degeneration import NUM_OPENINGS, openings
from layercut.diagnostics.functions import functions
from layercut.diagnostics.propagation import given
from layercut.diagnostics.similarity import cosines
from layercut.diagnostics.traces import kinds_of
from layercut.evidence.degeneration import (
    distinct,
    longest_loop,
    look,
    paper_self_bleu,
    repetition,
    self_bleu,
    words_of,
)
from layercut.evidence.program_classes import classify
from tests.support.patient import prose

MODULES = (
    "diagnostics.arithmetic",
    "evidence.degeneration",
    "evidence.program_classes",
    "diagnostics.propagation",
    "diagnostics.similarity",
    "diagnostics.traces",
    "diagnostics.cost",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docs_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"layercut.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


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


def test_kinds_of_tokens_in_code_and_prose() -> None:
    pieces = ["for", " x", " in", " [", "1", "]:", "\n   "]
    assert kinds_of(pieces, code=True) == ["keyword", "other", "keyword", "bracket", "digit", "bracket", "other"]
    assert kinds_of(pieces)[0] == "other"
    assert kinds_of([" is", " 1", "2", "."], answer=(3, 6)) == ["other", "answer", "answer", "other"]


def test_the_first_digit_where_a_token_may_be_three_digits() -> None:
    """p(7) = 0.3 as a token, but 1, 12 and 123 together have 0.45; 1234 is two tokens and already counted as 123."""
    options, tokens = [" 7", " 1", " 12", " 123", " 1234"], [1, 1, 1, 1, 2]
    probabilities = [0.3, 0.2, 0.15, 0.1, 0.09]
    found = first_digits(options, [math.log(p) for p in probabilities], tokens)
    assert [math.exp(one) for one in found] == pytest.approx([0, 0.45, 0, 0, 0, 0, 0, 0.3, 0, 0])
    # A tokenizer of single digits has no other number that is one token.
    assert first_digits(options, [math.log(p) for p in probabilities], [1, 1, 2, 3, 4])[1] == math.log(0.2)


def test_the_given_part_of_a_trace() -> None:
    pieces = [" 1", "2", "3", "4"]
    assert [given(pieces, share) for share in (0, 0.25, 0.5, 0.75, 1)] == ["", " 1", " 12", " 123", " 1234"]


def test_expressions_are_right_and_of_the_size_they_say() -> None:
    samples = expressions(seed=1).samples("report", 200)
    for sample in samples:
        assert str(eval(sample.question)) == sample.gold == str(value(sample.question))
        digits, operators = (int(part.split()[0]) for part in sample.data["kind"].split(", "))
        numbers = sample.question.split()[::2]
        assert len(numbers) == operators + 1
        assert {len(number) for number in numbers} == {digits}
        assert len(set(sample.options)) == 4
    assert {sample.data["kind"] for sample in samples} == {
        f"{d} digit{'s' * (d > 1)}, {o} operator{'s' * (o > 1)}" for d, o in KINDS
    }
    assert expressions(seed=1).samples("report", 50) == samples[:50]
    longer = expressions(num_examples=4)
    assert longer.examples.endswith(expressions().examples)
    assert longer.samples("report", 20) == expressions().samples("report", 20)


def test_nested_brackets_have_the_depth_they_say() -> None:
    samples = nested(seed=2).samples("report", 100)
    assert all(len(sample.gold.split()) == sample.data["depth"] for sample in samples)
    assert {sample.data["depth"] for sample in samples} == set(range(1, DEEPEST + 1))


def test_openings_and_functions_differ_and_grow() -> None:
    assert len(set(openings(1000, 0).values())) == NUM_OPENINGS
    assert list(openings(7, 3)) == list(openings(20, 3))[:7]
    wanted = functions(60, 0)
    assert len({one.id for one in wanted}) == 60
    assert wanted[:10] == functions(10, 0)
    assert {classify(one.head, head=one.head) for one in wanted} == {"no_code"}
    assert {classify(one.head + "\n    return 1", head=one.head) for one in wanted} == {"parses"}


def test_cosines_against_two_loops() -> None:
    torch.manual_seed(0)
    states, others = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    cosine, angle = cosines(states, others)
    for a in range(3):
        for b in range(2):
            each = [float(torch.cosine_similarity(states[a, t], others[b, t], dim=0)) for t in range(4)]
            assert float(cosine[a, b]) == pytest.approx(sum(each) / 4, abs=1e-6)
            assert float(angle[a, b]) == pytest.approx(sum(math.acos(c) / math.pi for c in each) / 4, abs=1e-6)


def test_ratio_of_paired_rounds() -> None:
    assert ratio([2.0, 4.0], [1.0, 2.0])[:3] == (0.5, None, None)
    found = ratio([1.0, 1.0, 1.0, 1.0], [1.1, 1.2, 1.0, 1.1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.0977 < found.high
    assert found.value == pytest.approx((1.1 * 1.2 * 1.0 * 1.1) ** 0.25)
