from __future__ import annotations

import math

import pytest

from layercut.diagnostics.arithmetic import KINDS, expressions, first_digits, value


def test_the_first_digit_where_a_token_may_be_three_digits() -> None:
    """p(7) = 0.3 as a token, but 1, 12 and 123 together have 0.45; 1234 is two tokens and already counted as 123."""
    options, tokens = [" 7", " 1", " 12", " 123", " 1234"], [1, 1, 1, 1, 2]
    probabilities = [0.3, 0.2, 0.15, 0.1, 0.09]
    found = first_digits(options, [math.log(p) for p in probabilities], tokens)
    assert [math.exp(one) for one in found] == pytest.approx([0, 0.45, 0, 0, 0, 0, 0, 0.3, 0, 0])
    # A tokenizer of single digits has no other number that is one token.
    assert first_digits(options, [math.log(p) for p in probabilities], [1, 1, 2, 3, 4])[1] == math.log(0.2)


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
