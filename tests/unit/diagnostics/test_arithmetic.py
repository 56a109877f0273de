from __future__ import annotations

from layercut.diagnostics.arithmetic import KINDS, expression_value, make_expressions


def test_expressions_are_right_and_of_the_size_they_say() -> None:
    samples = make_expressions(seed=1).samples("report", 200)
    for sample in samples:
        assert str(eval(sample.question)) == sample.gold == str(expression_value(sample.question))
        digits, operators = (int(part.split()[0]) for part in sample.data["kind"].split(", "))
        numbers = sample.question.split()[::2]
        assert len(numbers) == operators + 1
        assert {len(number) for number in numbers} == {digits}
        assert len(set(sample.options)) == 4
    assert {sample.data["kind"] for sample in samples} == {
        f"{d} digit{'s' * (d > 1)}, {o} operator{'s' * (o > 1)}" for d, o in KINDS
    }
    assert make_expressions(seed=1).samples("report", 50) == samples[:50]
