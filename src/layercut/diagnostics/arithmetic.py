"""Arithmetic: does the model still write, rank and predict whole results, and is the first digit right?

Probe E3, E8 and E11 of "On the Limits of Layer Pruning for Generative Reasoning in LLMs", arXiv:2602.01997, which reads
the first digit alone. That measure is kept for comparison and marked: guessing the most common first digit earns about
25 % of it. A tokenizer may take several digits as one token. Then the first token of an answer is not its first digit,
and the probability of a digit is that of all numbers that begin with it.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Any

from layercut.diagnostics.measures import by_group, examples_of, rows_of
from layercut.diagnostics.session import DiagnosticSession
from layercut.engine.base import Completion, LikelihoodRequest
from layercut.evidence.diagnosis import Diagnosis
from layercut.tasks.base import Readout, Sample
from layercut.tasks.builtin.lines import find_number, same_number
from layercut.tasks.few_shot import FewShotTask, Problem, item_rng, near_numbers
from layercut.tasks.grading import can_be_number

NAME = "arithmetic"
VERSION = 1  # raised by any change of the generator, the near misses, the examples or the prompt
NUM_SAMPLES = 500
EASY = ((1, 1), (2, 1), (1, 2))
KINDS = (*EASY, *EASY, (1, 3), (2, 2), (3, 1), (2, 3), (3, 2), (4, 2), (5, 2), (3, 3))
"""Digits of the numbers and operators between them, in this order, so that any limit has most sizes. A single operator
is easier than what the paper asks; without it a small model would have nothing to lose.
"""

_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_EXAMPLES = ("7 + 5 - 4", "3 * 6 + 2", "52 + 31")
DIGITS = tuple(f" {digit}" for digit in range(10))
NUMBERS = tuple(f" {number}" for number in range(1000))
"""Numbers that are one token for tokenizers with tokens of up to three digits."""


def arithmetic(session: DiagnosticSession) -> Diagnosis:
    """Ask expressions of every model: written, ranked among near misses, and by their first digit.

    Measures: ``written`` and ``ranked`` accuracy; ``log-probability`` of the right answer with its line break, in nats;
    ``place`` of the right answer among the four options, 1 to 4; ``first digit`` accuracy and log-probability of
    results that are not negative, the digits 0 to 9 compared with each other only (``first_digits``). The items are
    generated ``expressions``.
    """
    task = expressions(seed=session.seed)
    samples = task.samples("report", session.limit)
    session.came(task.name, samples)
    written = session.completions("arithmetic.written", [task.request(s, "short") for s in samples])  # type: ignore[misc]
    ranked = session.likelihoods("arithmetic.ranked", [task.request(s, "rank") for s in samples])  # type: ignore[misc]
    plain = [s for s in samples if not s.gold.startswith("-")]
    num_tokens = [ranked[session.uncut.name][s.id]["num_tokens"][s.gold_index] for s in samples]
    together = takes_digits_together([s.gold for s in samples], num_tokens)
    options_of_first = NUMBERS if together else DIGITS
    asked_first = [
        LikelihoodRequest(id=s.id, prompt=task.examples + task.prompt(s.question), continuations=options_of_first)
        for s in plain
    ]
    first = session.likelihoods("arithmetic.first_digit", asked_first)
    names = [arm.name for arm in session.arms]
    kinds = [str(sample.data["kind"]) for sample in samples]

    right = {name: [float(is_right(task, s, written[name][s.id])) for s in samples] for name in names}
    options = {name: [ranked[name][s.id]["log_likelihoods"] for s in samples] for name in names}
    place = {name: [place_of(s.gold_index, options[name][i]) for i, s in enumerate(samples)] for name in names}
    best = {name: [float(found == 1) for found in place[name]] for name in names}
    gold = {name: [options[name][i][s.gold_index] for i, s in enumerate(samples)] for name in names}
    golds = [s.gold for s in task.samples("report", None)]  # of all items: among a few, one answer is always common
    rows = [
        *rows_of(session, NAME, "written", right, chance=constant_share(golds), headline=True),
        *rows_of(session, NAME, "ranked", best, chance=0.25, headline=True),
        *rows_of(session, NAME, "log-probability", gold, unit="nats"),
        *rows_of(
            session, NAME, "place", {n: [float(p) for p in place[n]] for n in names}, better="lower", unit="score"
        ),
    ]
    digit = {
        name: [first_digits(options_of_first, first[name][s.id]["log_likelihoods"], first[name][s.id]["num_tokens"])
               for s in plain]
        for name in names
    }  # fmt: skip
    hits = {n: [float(place_of(int(s.gold[0]), digit[n][i]) == 1) for i, s in enumerate(plain)] for n in names}
    likely = {name: [digit[name][i][int(s.gold[0])] for i, s in enumerate(plain)] for name in names}
    every = [gold[0] for gold in golds if not gold.startswith("-")]
    floor = constant_share(every) if every else 0.0
    rows += rows_of(session, NAME, "first digit (paper)", hits, chance=floor)
    rows += rows_of(session, NAME, "first digit log-probability (paper)", likely, unit="nats")
    notes = [
        f"first digit is the measure of arXiv:2602.01997; always saying the most common digit earns {floor:.0%} of it, "
        "so small values carry no information."
    ]
    if together:
        notes[0] += (
            " The tokenizer takes several digits as one token: a digit's probability is that of all numbers up to 999 "
            "that are one token and begin with it."
        )
    rows += by_group(session, NAME, "written", right, kinds)
    uncut = session.uncut.name
    examples = examples_of(
        session,
        NAME,
        [(s.id, s.question, s.gold) for s in samples],
        written,
        lambda arm, place: right[uncut][place] > right[arm][place],
    )
    return {"rows": rows, "data": {}, "examples": examples, "notes": notes}


def place_of(index: int, scores: Sequence[float]) -> int:
    """Place of one score among all, 1 for the highest; equal ones stand before it if they come first.

    >>> place_of(2, [-1.0, -3.0, -2.0]), place_of(1, [-1.0, -1.0])
    (2, 2)
    """
    own = scores[index]
    return 1 + sum(other > own or (other == own and where < index) for where, other in enumerate(scores))


def constant_share(golds: Sequence[str]) -> float:
    """Accuracy of always giving the most common right answer."""
    return Counter(golds).most_common(1)[0][1] / len(golds)


def takes_digits_together(golds: Sequence[str], num_tokens: Sequence[int]) -> bool:
    """True if a tokenizer has tokens of several digits, judged by answers that were scored with their line break.

    >>> takes_digits_together(["7", "128"], [2, 4]), takes_digits_together(["7", "128"], [2, 2])
    (False, True)
    """
    return any(count < len(gold) + 1 for gold, count in zip(golds, num_tokens, strict=True) if len(gold) > 1)


def first_digits(options: Sequence[str], scores: Sequence[float], num_tokens: Sequence[int]) -> list[float]:
    """Log-probability of each digit from 0 to 9 as the first one of an answer.

    It sums over all options that begin with the digit and have no more tokens than a single digit has.

    >>> [round(math.exp(one), 2) for one in first_digits([" 1", " 2", " 21"], [math.log(0.5), math.log(0.2),
    ...     math.log(0.3)], [1, 1, 1])[:4]]
    [0.0, 0.5, 0.5, 0.0]
    """
    found = [-math.inf] * len(DIGITS)
    for option, score, length in zip(options, scores, num_tokens, strict=True):
        if length == min(num_tokens):
            digit = int(option.strip()[0])
            high, low = max(found[digit], score), min(found[digit], score)
            found[digit] = high if low == -math.inf else high + math.log1p(math.exp(low - high))
    return found


def is_right(task: Any, sample: Sample, record: dict[str, Any], readout: Readout = "short") -> bool:
    """True if the task's grader finds a record of the session right."""
    answer = Completion(
        id=sample.id,
        text=record["text"],
        finish_reason=record["finish_reason"],
        num_prompt_tokens=0,
        num_new_tokens=record["num_new_tokens"],
    )
    return bool(task.grade(sample, readout, answer).outcome == "right")


def expressions(*, seed: int = 0, num_examples: int = len(_EXAMPLES)) -> FewShotTask:
    """Expressions of one to five digits and one to three operators: sums and differences, and with one digit products
    too.

    A sample problem: ``6 + 4 * 8 =`` is answered by `` 38`` and a line break. Results are never negative. After probe
    E3 of arXiv:2602.01997, which asks 200 items of one digit and three operations after three examples and reads the
    first digit alone. Here the whole answer is read, by likelihood among near misses (``rank``) and as written
    (``short``). Near misses are slips in the first two digits and the result from left to right.

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
    """The value of an expression, products first.

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
