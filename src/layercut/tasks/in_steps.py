"""Problems solved in steps with a whole number as answer: code shared by the built-in tasks of that kind.

A problem is asked as ``Q: ...`` and ``A:`` after examples that are worked in steps. A chain ends in "The answer is
32.", which is also what an option says at once, without steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version as version_of
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.tasks.few_shot import FewShotTask, Problem
from layercut.tasks.grading import number_after, number_after_stands, parse_number, place_after

MAX_NEW_TOKENS = 128  # longest chain
_MARK = "The answer is"


class Worked(NamedTuple):
    """An example."""

    question: str
    steps: str  # up to and with the sentence that gives the answer


def in_steps(
    *,
    name: str,
    version: int,
    seed: int,
    problems: Callable[[int], Iterator[Problem]],
    num_samples: int,
    examples: Sequence[Worked],
    num_shots: int | None,
    max_new_tokens: int,
) -> FewShotTask:
    """A task of problems in steps, made by reasoning-gym, whose version stands in the settings.

    ``num_shots`` is how many of the examples are shown, all if left out; without any ``short`` and ``chain`` ask alike.

    Grading: the number right after the first "The answer is" must have the right value. A currency sign
    before it, a unit behind it, commas between thousands and a colon are let through, as in "The answer is $1,234
    dollars."; a percent sign is taken for a unit, because the question says what it asks for. "The answer is 3 * 5 =
    15" answers 3. A chain without these words has no answer, whatever numbers stand in it.

    Early verdict: once that number is complete, right or wrong alike; a damaged model may go on for long after it.

    Raises:
        InputError: more examples than there are.
    """
    if num_shots is not None and not 0 <= num_shots <= len(examples):
        raise InputError(f"{name} has {len(examples)} worked examples, not {num_shots}; use 0 to {len(examples)}.")
    shown = examples[:num_shots]
    changed = {"max_new_tokens": max_new_tokens} if max_new_tokens != MAX_NEW_TOKENS else {}
    changed |= {"num_shots": len(shown)} if len(shown) != len(examples) else {}
    return FewShotTask(
        name=name,
        version=version,
        readouts=("chain", "rank"),
        seed=seed,
        problems=problems,
        num_samples=num_samples,
        examples="".join(f"{_prompt(example.question)} {example.steps}\n" for example in shown),
        example_questions=frozenset(example.question for example in examples),
        prompt=_prompt,
        answer=_answer,
        find=find_final_number,
        is_right=lambda answer, gold: parse_number(answer) == parse_number(gold),
        max_new_tokens=max_new_tokens,
        stop=("\n",),
        settles=lambda text, gold: number_after_stands(_MARK, text),
        place=partial(place_after, _MARK),
        short_examples="".join(_prompt(one.question) + _answer(find_final_number(one.steps)) for one in shown),
        short_tokens=16,
        extra_readouts=("short", "gold", "token"),
        made_with={"reasoning_gym": version_of("reasoning-gym"), **{key: str(value) for key, value in changed.items()}},
    )


def solution(steps: str, gold: str) -> dict[str, Any]:
    """Data of a problem with its worked solution: the chain as the task's examples write it, for ``Sample.data``."""
    return {"solution": f" {' '.join(steps.split())}{_answer(gold)}"}


def find_final_number(text: str) -> str:
    """The number right after the first "The answer is".

    >>> find_final_number("So 9 + 6 = 15. The answer is $1,234 dollars.")
    '1234'
    >>> find_final_number("So 9 + 6 = 15 toys.")
    ''
    """
    return number_after(_MARK, text)


def _prompt(question: str) -> str:
    return f"Q: {question}\nA:"


def _answer(option: str) -> str:
    return f" {_MARK} {option}.\n"
