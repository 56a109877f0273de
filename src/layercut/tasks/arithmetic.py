"""Arithmetic with one and two digits, after six examples.

A sample problem: ``28 + 6 =`` is answered by `` 34`` and a line break; its options are 34, 37, 168 and 35.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import count
from random import Random

from layercut.tasks.few_shot import FewShotTask, Problem, item_rng, line_task, near_numbers
from layercut.tasks.grading import can_be_number, first_line, parse_number

VERSION = 1  # raised by any change of the generator, the near misses, the examples, the prompt or the grading
NUM_SAMPLES = 250  # samples in each split; small problems would run out beyond

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_SMALL = tuple(
    f"{left} {sign} {right}"
    for left in range(1, 13)
    for right in range(1, 13)
    for sign in "+-*"
    if sign != "-" or left >= right
)
_EXAMPLES = ("3 + 5", "47 - 12", "6 * 4", "38 + 27", "9 - 2", "12 * 3")


def arithmetic(*, seed: int = 0) -> FewShotTask:
    """Sums, differences and products; 60 % small (up to 12), 20 % two digits with one, 20 % two digits with two.

    Differences are never negative, and two numbers of two digits are never multiplied. Near misses are
    slips in the first two digits and the results of the other operations.

    Grading of free answers: the first line must be a number and nothing else, apart from one full stop, and have the
    right value. "19", "19." and "19.0" answer 19; "1,234" answers 1234; "60%", "19 apples" and "= 19" are no answers.

    Early verdict: as soon as no continuation makes it the right number. Where 6 is right, " 7" and " 61" are settled,
    and " 6." (perhaps "6.0") and " 0" (perhaps "06") are not.
    """
    return line_task(
        "=",
        {question: str(_value(question)) for question in _EXAMPLES},
        name="arithmetic",
        version=VERSION,
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        find=find_number,
        is_right=same_number,
        max_new_tokens=8,
        settles=lambda text, gold: not can_be_number(text, gold),
    )


def find_number(text: str) -> str:
    """The number that the first line is; empty if it is not one.

    >>> find_number(" 19.\\n"), find_number(" 60%"), find_number(" about 19")
    ('19', '', '')
    """
    number = parse_number(first_line(text))
    return "" if number is None else str(number)


def same_number(answer: str, gold: str) -> bool:
    """Equal in value: 19.0 is 19."""
    return parse_number(answer) == parse_number(gold)


def _problems(seed: int) -> Iterator[Problem]:
    for question in _questions(seed):
        gold = _value(question)
        left, _, right = question.split()
        mistakes = {apply(int(left), int(right)) for apply in _OPERATORS.values()}
        near = near_numbers(gold, item_rng("arithmetic", VERSION, question), also=mistakes)
        yield Problem(question, str(gold), near, {})


def _questions(seed: int) -> Iterator[str]:
    # The few small problems are dealt like cards. Drawn with repeats, which are left out, they would grow rarer from
    # sample to sample.
    small = iter(Random(f"arithmetic {VERSION} {seed} small").sample(_SMALL, len(_SMALL)))
    for index in count():
        rng = Random(f"arithmetic {VERSION} {seed} {index}")
        kind = rng.choice(("small", "small", "small", "mixed", "large"))
        if kind == "small":
            question = next(small, None)
            if question is None:
                return
            yield question
        elif kind == "mixed":
            yield _ordered(rng.randint(10, 99), rng.choice("+-*"), rng.randint(2, 9))
        else:
            yield _ordered(rng.randint(10, 99), rng.choice("+-"), rng.randint(10, 99))


def _ordered(left: int, sign: str, right: int) -> str:
    if sign == "-" and right > left:
        left, right = right, left
    return f"{left} {sign} {right}"


def _value(question: str) -> int:
    left, sign, right = question.split()
    return int(_OPERATORS[sign](int(left), int(right)))
