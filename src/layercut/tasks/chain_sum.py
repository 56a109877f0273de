"""Sums and differences of five to seven numbers, worked out one step after the other, after two examples.

The expressions are those of ``chain_sum`` in the library reasoning-gym; ours are the steps. Every step is easy and each
builds on the one before, so the task measures whether the model can chain steps.

A sample problem: "85 + 16 - 38 - 53 + 27 = ?" is answered by "85 + 16 = 101. 101 - 38 = 63. 63 - 53 = 10. 10 + 27 = 37.
The answer is 37."; its options are 39, 37, 143 and 38, each as "The answer is 37." right after the problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, count
from random import Random
from typing import NamedTuple

from layercut.tasks.few_shot import FewShotTask, Problem, item_rng, near_numbers
from layercut.tasks.in_steps import MAX_NEW_TOKENS, Worked, in_steps, solution

VERSION = 1
"""Raised by any change of the near misses, the examples, the prompt or the grading. The library's version stands in the
settings, because it decides the problems."""
NUM_SAMPLES = 2500  # samples in each split: enough to learn from
MIN_TERMS, MAX_TERMS = 5, 7  # numbers of a problem: four to six steps

_PART = 512  # problems asked from the library at a time


def chain_sum(*, seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS, num_shots: int | None = None) -> FewShotTask:
    """Numbers of one or two digits, as many digits in all of a problem's; no result on the way is negative.

    Near misses are slips in the first two digits and the results with one sign turned round.

    ``short`` asks for the last sentence at once, after examples without steps. Examples, grading and early verdicts:
    see ``in_steps``.

    ``max_new_tokens`` is the length of a chain at most; ``num_shots`` how many examples are shown.
    """
    return in_steps(
        name="chain_sum",
        version=VERSION,
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        examples=[Worked(f"{terms} = ?", _worked(terms)) for terms in ("8 + 5 - 2 + 9 - 4", "31 + 25 - 14 + 10 - 27")],
        num_shots=num_shots,
        max_new_tokens=max_new_tokens,
    )


def _problems(seed: int) -> Iterator[Problem]:
    # Imported here, because the library takes seconds and brings a hundred other generators along.
    from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset

    for part in count():
        # The data set draws problem i from its seed + i, so neighbouring seeds would share problems.
        its_seed = Random(f"chain_sum {VERSION} {seed} {part}").getrandbits(48)
        config = ChainSumConfig(min_terms=MIN_TERMS, max_terms=MAX_TERMS, max_digits=2, seed=its_seed, size=_PART)
        data = ChainSumDataset(config)
        for index in range(_PART):
            terms = data[index]["metadata"]["expression"]
            changes, totals = _read(terms)
            if min(totals) < 0:
                continue
            question, gold = f"{terms} = ?", totals[-1]
            turned = [gold - 2 * change for change in changes]
            near = near_numbers(gold, item_rng("chain_sum", VERSION, question), also=turned)
            yield Problem(question, str(gold), near, {"steps": len(changes), **solution(_steps(terms), str(gold))})


def _worked(terms: str) -> str:
    return str(solution(_steps(terms), str(_read(terms).totals[-1]))["solution"]).strip()


def _steps(terms: str) -> str:
    """Every step as a sentence.

    >>> _steps("8 + 5 - 2")
    '8 + 5 = 13. 13 - 2 = 11.'
    """
    rest = terms.split()[1:]
    totals = _read(terms).totals
    changes = [" ".join(change) for change in zip(rest[::2], rest[1::2], strict=True)]
    return " ".join(
        f"{before} {change} = {after}." for before, change, after in zip(totals, changes, totals[1:], strict=False)
    )


class _Terms(NamedTuple):
    changes: list[int]  # numbers that each step adds
    totals: list[int]  # the first number, and the result of every step


def _read(terms: str) -> _Terms:
    """The result of an expression, step by step.

    >>> _read("8 + 5 - 2").totals
    [8, 13, 11]
    """
    first, *rest = terms.split()
    changes = [int(f"{sign}{number}") for sign, number in zip(rest[::2], rest[1::2], strict=True)]
    return _Terms(changes, list(accumulate([int(first), *changes])))
