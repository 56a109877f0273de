"""Arithmetic, brackets and copying: questions that are answered on the rest of a line, after a few examples.

Sample problems, each with its right answer and the wrong options:

    28 + 6 = 34 | 37 | 168 | 35
    ( [ [ ( ) -> ] ] ) | ] ) | ] ) ] | ) ] ] )
    silver island hammer forest -> silver island hammer forest | island silver hammer forest | island hammer forest
        | night island hammer forest
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from itertools import count
from random import Random
from typing import Any

from layercut.tasks.few_shot import NUM_NEAR_MISSES, FewShotTask, Problem, draw_questions, near_numbers, rng_of_item
from layercut.tasks.grading import can_be_number, can_be_words, first_line, parse_number

VERSION = 1  # raised by any change of a generator, the near misses, the examples, the prompt or the grading

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = tuple(
    """
    apple bread bridge butter camera candle castle chair circle cloud corner cotton doctor dream engine farmer father
    finger fish flower forest garden glass grass green hammer heart horse house island kitchen lake letter market
    metal mirror morning mountain music needle night ocean office orange paper pencil picture plate pocket purple
    rabbit river school shoulder silver stone summer sugar table teacher ticket tiger valley village water window winter
    """.split()  # noqa: SIM905
)


def arithmetic_task(*, seed: int = 0) -> FewShotTask:
    """Sums, differences and products; 60 % small (up to 12), 20 % two digits with one, 20 % two digits with two.

    Differences are never negative, and two numbers of two digits are never multiplied. Near misses are
    slips in the first two digits and the results of the other operations.

    Grading of free answers: the first line must be a number and nothing else, apart from one full stop, and have the
    right value. "19", "19." and "19.0" answer 19; "1,234" answers 1234; "60%", "19 apples" and "= 19" are no answers.

    Early verdict: as soon as no continuation makes it the right number. Where 6 is right, " 7" and " 61" are settled,
    and " 6." (perhaps "6.0") and " 0" (perhaps "06") are not.
    """
    examples = ("3 + 5", "47 - 12", "6 * 4", "38 + 27", "9 - 2", "12 * 3")
    return _line_task(
        "=",
        {question: str(_value(question)) for question in examples},
        name="arithmetic",
        seed=seed,
        problems=_arithmetic_problems,
        num_samples=250,  # small problems would run out beyond
        find=find_number,
        is_right=same_number,
        max_new_tokens=8,
        settles=lambda text, gold: not can_be_number(text, gold),
    )


def brackets_task(*, seed: int = 0) -> FewShotTask:
    """Two to four brackets are open, behind none to two pairs that are closed already.

    Near misses, three of these that differ from the right answer: two neighbours in the wrong order, one missing, one
    too many, one of the wrong kind.

    Grading of free answers: the first line, brackets only; spaces do not count, and one full stop at the end does not
    either. ")]" answers ") ]"; ") ] )" does not; ") ] done" is no answer.

    Early verdict: at the first bracket that is not the right one, and at anything else that spoils the line.
    """
    examples = ("( [ { }", "{ ( ) [ (", "[ {", "( { [ ] {", "[ ( ) ( { [", "{ (")
    return _line_task(
        "->",
        {question: closing_brackets(question) for question in examples},
        name="brackets",
        seed=seed,
        problems=_bracket_problems,
        num_samples=1000,
        find=find_brackets,
        is_right=str.__eq__,
        max_new_tokens=12,
        # White space does not count, so what is left is one word.
        settles=lambda text, gold: not can_be_words("".join(text.partition("\n")[0].split()), "".join(gold.split())),
    )


def copying_task(*, seed: int = 0) -> FewShotTask:
    """Lists of four to eight different words.

    Near misses: two neighbours swapped, one word dropped, one word replaced.

    Grading of free answers: the first line must be the list, word for word and in lower case as it was given; the
    amount of white space does not count, nor does one full stop at the end.

    Early verdict: at the first letter that differs from the list, apart from white space.
    """
    examples = (
        "garden silver horse paper mirror",
        "winter bridge candle music flower island doctor plate",
        "ticket stone valley apple rabbit castle",
    )
    return _line_task(
        "->",
        {words: words for words in examples},
        name="copy",
        seed=seed,
        problems=_copy_problems,
        num_samples=1000,
        find=lambda text: " ".join(first_line(text).split()),
        is_right=str.__eq__,
        max_new_tokens=20,
        settles=lambda text, gold: not can_be_words(text, gold),
    )


def _line_task(mark: str, examples: Mapping[str, str], **task: Any) -> FewShotTask:
    """A task that is asked as ``question mark``; ``examples`` are right answers by their questions."""
    return FewShotTask(
        version=VERSION,
        readouts=("short", "rank"),
        examples="".join(f"{question} {mark} {right}\n" for question, right in examples.items()),
        example_questions=frozenset(examples),
        prompt=lambda question: f"{question} {mark}",
        answer=lambda option: f" {option}\n",
        stop=("\n",),
        **task,
    )


def find_number(text: str) -> str:
    """The number that the first line is; empty if it is not one."""
    number = parse_number(first_line(text))
    return "" if number is None else str(number)


def same_number(answer: str, gold: str) -> bool:
    """Equal in value: 19.0 is 19."""
    return parse_number(answer) == parse_number(gold)


def find_brackets(text: str) -> str:
    """The brackets that the first line is made of; empty if there are none or there is anything else."""
    characters = "".join(first_line(text).split())
    return " ".join(characters) if set(characters) <= set("()[]{}") else ""


def closing_brackets(question: str) -> str:
    """The brackets that close all open ones: ``) ] }`` for ``{ ( ) [ (``."""
    needed: list[str] = []
    for bracket in question.split():
        if bracket in _CLOSING:
            needed.append(_CLOSING[bracket])
        else:
            assert needed.pop() == bracket, question
    return " ".join(reversed(needed))


def _arithmetic_problems(seed: int) -> Iterator[Problem]:
    for question in _expressions(seed):
        gold = _value(question)
        left, _, right = question.split()
        mistakes = {apply(int(left), int(right)) for apply in _OPERATORS.values()}
        near = near_numbers(gold, rng_of_item("arithmetic", VERSION, question), also=mistakes)
        yield Problem(question, str(gold), near, {})


def _expressions(seed: int) -> Iterator[str]:
    # The few small problems are dealt like cards. Drawn with repeats, which are left out, they would grow rarer from
    # sample to sample.
    numbers = range(1, 13)
    every = [f"{a} {sign} {b}" for a in numbers for b in numbers for sign in "+-*" if sign != "-" or a >= b]
    small = iter(Random(f"arithmetic {VERSION} {seed} small").sample(every, len(every)))
    for index in count():
        rng = Random(f"arithmetic {VERSION} {seed} {index}")
        kind = rng.choice(("small", "small", "small", "mixed", "large"))
        if kind == "small":
            question = next(small, None)
            if question is None:
                return
            yield question
        else:
            signs, lowest, highest = ("+-*", 2, 9) if kind == "mixed" else ("+-", 10, 99)
            left, sign, right = rng.randint(10, 99), rng.choice(signs), rng.randint(lowest, highest)
            yield f"{right} {sign} {left}" if sign == "-" and right > left else f"{left} {sign} {right}"


def _value(question: str) -> int:
    left, sign, right = question.split()
    return int(_OPERATORS[sign](int(left), int(right)))


def _bracket_problems(seed: int) -> Iterator[Problem]:
    for question in draw_questions("brackets", VERSION, seed, _draw_brackets):
        gold = closing_brackets(question)
        yield Problem(question, gold, _wrong_brackets(gold.split(), rng_of_item("brackets", VERSION, question)), {})


def _draw_brackets(rng: Random) -> str:
    num_open, num_closed = rng.randint(2, 4), rng.randint(0, 2)
    steps = ["open"] * (num_open + num_closed) + ["close"] * num_closed
    text: list[str] = []
    needed: list[str] = []
    while steps:
        step = steps.pop(rng.randrange(len(steps)))
        if step == "close" and not needed:  # nothing to close yet: put it back and draw again
            steps.append(step)
        elif step == "close":
            text.append(needed.pop())
        else:
            text.append(rng.choice(tuple(_CLOSING)))
            needed.append(_CLOSING[text[-1]])
    return " ".join(text)


def _wrong_brackets(right: list[str], rng: Random) -> tuple[str, ...]:
    at = rng.randrange(len(right))
    other_kind = rng.choice([kind for kind in _CLOSING.values() if kind != right[at]])
    extra, place = rng.choice(tuple(_CLOSING.values())), rng.randint(0, len(right))
    wrong = [
        [*right[:at], *right[at + 1 :]],
        [*right[:place], extra, *right[place:]],
        [*right[:at], other_kind, *right[at + 1 :]],
    ]
    if unequal := [i for i in range(len(right) - 1) if right[i] != right[i + 1]]:  # ") )" has no other order
        i = rng.choice(unequal)
        wrong.append([*right[:i], right[i + 1], right[i], *right[i + 2 :]])
    return tuple(" ".join(option) for option in rng.sample(wrong, NUM_NEAR_MISSES))


def _copy_problems(seed: int) -> Iterator[Problem]:
    for question in draw_questions("copy", VERSION, seed, lambda rng: " ".join(rng.sample(_WORDS, rng.randint(4, 8)))):
        words, rng = question.split(), rng_of_item("copy", VERSION, question)
        swapped, dropped, replaced = words.copy(), words.copy(), words.copy()
        i = rng.randrange(len(words) - 1)
        swapped[i : i + 2] = [words[i + 1], words[i]]
        del dropped[rng.randrange(len(words))]
        replaced[rng.randrange(len(words))] = rng.choice([word for word in _WORDS if word not in words])
        yield Problem(question, question, tuple(map(" ".join, (swapped, dropped, replaced))), {})
