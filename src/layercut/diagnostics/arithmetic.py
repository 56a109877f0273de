"""Arithmetic: does the model still write and rank whole results? E3 and E8 of arXiv:2602.01997, by whole answers."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from random import Random

from layercut.diagnostics.session import DiagnosticSession, values_of
from layercut.evidence.diagnosis import Diagnosis
from layercut.tasks.builtin.lines import find_number, same_number
from layercut.tasks.few_shot import FewShotTask, Problem, near_numbers, rng_of_item
from layercut.tasks.grading import can_be_number

ARITHMETIC = "arithmetic"
VERSION = 1  # raised by any change of the generator, the near misses, the examples or the prompt
NUM_SAMPLES = 500
EASY = ((1, 1), (2, 1), (1, 2))
KINDS = (*EASY, *EASY, (1, 3), (2, 2), (3, 1), (2, 3), (3, 2), (4, 2), (5, 2), (3, 3))
"""Digits of the numbers and operators between them, in this order, so that any limit has most sizes."""

_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_EXAMPLES = ("7 + 5 - 4", "3 * 6 + 2", "52 + 31")


def arithmetic(session: DiagnosticSession) -> Diagnosis:
    """Ask expressions of every model, written and ranked among near misses."""
    task = make_expressions(seed=session.seed)
    written = session.grade("arithmetic.written", task)
    samples = written.samples
    ranked = session.ask("arithmetic.ranked", [task.request(sample, "rank") for sample in samples])
    best = values_of(ranked, samples, lambda sample, r: place_of(sample.gold_index, r["log_likelihoods"]) == 1)
    gold = values_of(ranked, samples, lambda sample, r: r["log_likelihoods"][sample.gold_index])
    kinds = [str(sample.data["kind"]) for sample in samples]
    rows = partial(session.rows, ARITHMETIC)
    return {
        "rows": [
            *rows("written", written.right, chance=guessing_score(task), headline=True),
            *rows("ranked", best, chance=0.25, headline=True),
            *rows("log-probability", gold, unit="nats"),
            *session.rows_by_group(ARITHMETIC, "written", written.right, kinds),
        ],
        "data": {},
        "notes": [],
    }


def place_of(index: int, scores: Sequence[float]) -> int:
    """Place of one score among all, 1 for the highest; equal ones stand before it if they come first.

    >>> place_of(2, [-1.0, -3.0, -2.0]), place_of(1, [-1.0, -1.0])
    (2, 2)
    """
    own = scores[index]
    return 1 + sum(other > own or (other == own and where < index) for where, other in enumerate(scores))


def guessing_score(task: FewShotTask) -> float:
    """Accuracy of always writing the most common right answer of all report items."""
    return task.split_chance("report", "short")["accuracy"]


def make_expressions(*, seed: int = 0) -> FewShotTask:
    """Expressions of one to five digits and one to three operators, with products of one digit; never negative.

    ``6 + 4 * 8 =`` is answered by `` 38`` and a line break. Near misses are slips in the first two digits and the
    result from left to right.
    """
    return FewShotTask(
        name="expressions",
        version=VERSION,
        readouts=("short", "rank"),
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        examples="".join(f"{question} = {expression_value(question)}\n" for question in _EXAMPLES),
        example_questions=frozenset(("9 - 2", *_EXAMPLES)),  # the first was an example once
        prompt=lambda question: f"{question} =",
        answer=lambda option: f" {option}\n",
        find=find_number,
        is_right=same_number,
        max_new_tokens=12,
        stop=("\n",),
        settles=lambda text, gold: not can_be_number(text, gold),
    )


def expression_value(question: str) -> int:
    """The value of an expression, products first.

    >>> expression_value("6 + 4 * 8"), expression_value("7 - 2 - 1")
    (38, 4)
    """
    while "*" in question:
        question = re.sub(r"(\d+) \* (\d+)", lambda match: str(int(match[1]) * int(match[2])), question, count=1)
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
        gold = expression_value(question)
        near = near_numbers(gold, rng_of_item("expressions", VERSION, question), also=(_from_left(question),))
        kind = f"{digits} digit{'s' * (digits > 1)}, {operators} operator{'s' * (operators > 1)}"
        yield Problem(question, str(gold), near, {"kind": kind})


def _question(rng: Random, digits: int, operators: int) -> str:
    while True:
        numbers = [str(rng.randint(10 ** (digits - 1), 10**digits - 1)) for _ in range(operators + 1)]
        signs = [rng.choice("+-*" if digits == 1 else "+-") for _ in range(operators)]
        question = " ".join(part for pair in zip(numbers, [*signs, ""], strict=True) for part in pair).strip()
        if expression_value(question) >= 0:
            return question
