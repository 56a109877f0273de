"""Items of the arithmetic diagnostic: expressions of one to five digits and one to three operators.

A sample problem: ``6 + 4 * 8 =`` is answered by `` 38`` and a line break.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from itertools import count
from random import Random

from layercut.tasks.arithmetic import find_number, same_number
from layercut.tasks.few_shot import FewShotTask, Problem, item_rng
from layercut.tasks.grading import can_be_number
from layercut.tasks.near_misses import near_numbers

VERSION = 1
"""Raised by any change of the generator, the near misses, the examples or the prompt."""
NUM_SAMPLES = 500
"""Of each split."""
EASY = ((1, 1), (2, 1), (1, 2))
KINDS = (*EASY, *EASY, (1, 3), (2, 2), (3, 1), (2, 3), (3, 2), (4, 2), (5, 2), (3, 3))
"""Digits of the numbers and operators between them, in this order, so that any limit has most sizes. A single operator
is easier than what the paper asks; without it a small model would have nothing to lose.
"""

_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_EXAMPLES = ("7 + 5 - 4", "3 * 6 + 2", "52 + 31")


def expressions(*, seed: int = 0, num_examples: int = len(_EXAMPLES)) -> FewShotTask:
    """Sums and differences, and with numbers of one digit products too; results are never negative.

    After probe E3 of arXiv:2602.01997, which asks 200 items of one digit and three operations after three examples and
    reads the first digit alone. Here the whole answer is read, by likelihood among near misses (``rank``) and as
    written (``short``). Near misses are slips in the first two digits and the result from left to right.

    Args:
        seed: of the generator.
        num_examples: worked examples before each problem. The fourth is of another kind and comes first.
    """
    shown = ("9 - 2", *_EXAMPLES)[-num_examples:]
    return FewShotTask(
        name="expressions",
        version=VERSION,
        readouts=("short", "rank"),
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        examples="".join(f"{question} = {value(question)}\n" for question in shown),
        example_questions=frozenset(("9 - 2", *_EXAMPLES)),
        prompt=lambda question: f"{question} =",
        answer=lambda option: f" {option}\n",
        find=find_number,
        is_right=same_number,
        max_new_tokens=12,
        stop=("\n",),
        settles=lambda text, gold: not can_be_number(text, gold),
    )


def value(question: str) -> int:
    """What an expression comes to, products first.

    >>> value("6 + 4 * 8"), value("7 - 2 - 1")
    (38, 4)
    """
    while "*" in question:
        question = re.sub(r"(\d+) \* (\d+)", lambda found: str(int(found[1]) * int(found[2])), question, count=1)
    return _from_left(question)


def _from_left(question: str) -> int:
    first, *rest = question.split()
    result = int(first)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        result = _APPLY[sign](result, int(number))
    return result


def _problems(seed: int) -> Iterator[Problem]:
    for index in count():
        digits, operators = KINDS[index % len(KINDS)]
        question = _question(Random(f"expressions {VERSION} {seed} {index}"), digits, operators)
        gold = value(question)
        near = near_numbers(gold, item_rng("expressions", VERSION, question), also=(_from_left(question),))
        kind = f"{digits} digit{'s' * (digits > 1)}, {operators} operator{'s' * (operators > 1)}"
        yield Problem(question, str(gold), near, {"kind": kind})


def _question(rng: Random, digits: int, operators: int) -> str:
    while True:
        numbers = [str(rng.randint(10 ** (digits - 1), 10**digits - 1)) for _ in range(operators + 1)]
        signs = [rng.choice("+-*" if digits == 1 else "+-") for _ in range(operators)]
        question = " ".join(part for pair in zip(numbers, [*signs, ""], strict=True) for part in pair).strip()
        if value(question) >= 0:
            return question
