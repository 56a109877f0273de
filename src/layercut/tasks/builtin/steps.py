"""Problems that are solved in steps after two examples, made by reasoning-gym: ``chain_sum`` and ``gsm_symbolic``.

Sample problems; an option says "The answer is 37." right after the problem, without steps:

    Q: 85 + 16 - 38 - 53 + 27 = ?
    A: 85 + 16 = 101. 101 - 38 = 63. 63 - 53 = 10. 10 + 27 = 37. The answer is 37.
    Options: 39, 37, 143, 38

    Q: A boy has 21 toys. His friend has 10 fewer toys than he has. How many toys do they have together?
    A: His friend has 21 - 10 = 11 toys. Together they have 21 + 11 = 32 toys. The answer is 32.
    Options: 32, 29, 22, 11
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version as version_of
from itertools import accumulate, count
from random import Random
from typing import Any

from layercut.errors import InputError
from layercut.tasks.few_shot import FewShotTask, Problem, near_numbers, rng_of_item
from layercut.tasks.grading import all_numbers, number_after, number_after_stands, parse_number

VERSION = 1
"""Raised by any change of the near misses, the examples, the prompt or the grading. The library's version stands in the
settings, because it decides the problems."""
MAX_NEW_TOKENS = 128  # longest chain
MIN_TERMS, MAX_TERMS = 5, 7  # numbers of a chain of sums: four to six steps

_MARK = "The answer is"
_PART = 512  # problems asked from the library at a time
_ASIDE = " Give the result as your final answer. Do not include units."
_WORD_PROBLEMS = {
    "Nora picks 14 plums and buys 3 bags of 6 plums each. She eats 5 plums. How many plums are left?": (
        "The bags hold 3 * 6 = 18 plums. In all she has 14 + 18 = 32 plums. After eating she has 32 - 5 = 27 plums. "
        "The answer is 27."
    ),
    "A train has 8 cars with 40 seats each. A quarter of the seats are empty. How many seats are taken?": (
        "There are 8 * 40 = 320 seats. 320 / 4 = 80 are empty. 320 - 80 = 240 are taken. The answer is 240."
    ),
}


def chain_sum(*, seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS, num_shots: int | None = None) -> FewShotTask:
    """Sums and differences of five to seven numbers of one or two digits; no result on the way is negative.

    The expressions are those of ``chain_sum`` in reasoning-gym; ours are the steps. Every step is easy and each builds
    on the one before, so the task measures whether the model can chain steps. Near misses are slips in the first two
    digits and the results with one sign turned round.
    """
    examples = {f"{terms} = ?": _chain(terms).strip() for terms in ("8 + 5 - 2 + 9 - 4", "31 + 25 - 14 + 10 - 27")}
    return _in_steps("chain_sum", seed, _sums, 2500, examples, num_shots, max_new_tokens)


def gsm_symbolic(*, seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS, num_shots: int | None = None) -> FewShotTask:
    """Grade-school word problems whose answers are whole and not negative; the library's few others are left out.

    The problems are those of ``gsm_symbolic`` in reasoning-gym, which fills the templates of Mirzadeh et al.,
    "GSM-Symbolic", arXiv:2410.05229, with names and numbers.

    Near misses are slips in the first two digits and intermediate results of the library's worked solution. Numbers
    that stand in the problem are left out: small models favour whatever they have just read, and with such options
    SmolLM2-135M ranked below chance (8 of 64 right).
    """
    return _in_steps("gsm_symbolic", seed, _word_problems, 1000, _WORD_PROBLEMS, num_shots, max_new_tokens)


def _in_steps(
    name: str,
    seed: int,
    problems: Callable[[int], Iterator[Problem]],
    num_samples: int,
    examples: Mapping[str, str],
    num_shots: int | None,
    max_new_tokens: int,
) -> FewShotTask:
    """A task of problems in steps; ``examples``: the steps, up to and with the answer's sentence, by question.

    Grading: the number right after the first "The answer is" must have the right value. A currency sign
    before it, a unit behind it, commas between thousands and a colon are let through, as in "The answer is $1,234
    dollars."; a percent sign is taken for a unit, because the question says what it asks for. "The answer is 3 * 5 =
    15" answers 3. A chain without these words has no answer, whatever numbers stand in it.

    Early verdict: once that number is complete, right or wrong alike; a damaged model may go on for long after it.
    """
    if num_shots is not None and not 0 <= num_shots <= len(examples):
        raise InputError(f"{name} has {len(examples)} worked examples, not {num_shots}; use 0 to {len(examples)}.")
    shown = list(examples.items())[:num_shots]
    changed = {"max_new_tokens": str(max_new_tokens)} if max_new_tokens != MAX_NEW_TOKENS else {}
    changed |= {"num_shots": str(len(shown))} if len(shown) != len(examples) else {}
    return FewShotTask(
        name=name,
        version=VERSION,
        readouts=("chain", "rank"),
        seed=seed,
        problems=problems,
        num_samples=num_samples,
        examples="".join(f"{_prompt(question)} {steps}\n" for question, steps in shown),
        example_questions=frozenset(examples),
        prompt=_prompt,
        answer=_answer,
        find=partial(number_after, _MARK),
        is_right=lambda answer, gold: parse_number(answer) == parse_number(gold),
        max_new_tokens=max_new_tokens,
        stop=("\n",),
        settles=lambda text, gold: number_after_stands(_MARK, text),
        made_with={"reasoning_gym": version_of("reasoning-gym"), **changed},
    )


def _prompt(question: str) -> str:
    return f"Q: {question}\nA:"


def _answer(option: str) -> str:
    return f" {_MARK} {option}.\n"


def _solution(steps: str, gold: str) -> str:
    """The chain as the task's examples write it, for ``Sample.data``."""
    return f" {' '.join(steps.split())}{_answer(gold)}"


def _parts(name: str, seed: int) -> Iterator[int]:
    """Seeds of the library's data sets: each draws problem i from its seed + i, so neighbours would share problems."""
    return (Random(f"{name} {VERSION} {seed} {part}").getrandbits(48) for part in count())


def _sums(seed: int) -> Iterator[Problem]:
    # Imported here, because the library takes seconds and brings a hundred other generators along.
    from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset

    for part_seed in _parts("chain_sum", seed):
        config = ChainSumConfig(min_terms=MIN_TERMS, max_terms=MAX_TERMS, max_digits=2, seed=part_seed, size=_PART)
        data = ChainSumDataset(config)
        for index in range(_PART):
            terms = data[index]["metadata"]["expression"]
            changes, totals = _read_sum(terms)
            if min(totals) < 0:
                continue
            question, gold = f"{terms} = ?", totals[-1]
            turned = [gold - 2 * change for change in changes]
            near = near_numbers(gold, rng_of_item("chain_sum", VERSION, question), also=turned)
            yield Problem(question, str(gold), near, {"solution": _chain(terms)})


def _chain(terms: str) -> str:
    """Every step as a sentence, and the answer: ``8 + 5 = 13. 13 - 2 = 11. The answer is 11.``"""
    rest, totals = terms.split()[1:], _read_sum(terms)[1]
    steps = (
        f"{before} {sign} {number} = {after}."
        for before, sign, number, after in zip(totals, rest[::2], rest[1::2], totals[1:], strict=False)
    )
    return _solution(" ".join(steps), str(totals[-1]))


def _read_sum(terms: str) -> tuple[list[int], list[int]]:
    """The numbers that each step adds, and the first number with the result of every step."""
    first, *rest = terms.split()
    changes = [int(f"{sign}{number}") for sign, number in zip(rest[::2], rest[1::2], strict=True)]
    return changes, list(accumulate([int(first), *changes]))


def _word_problems(seed: int) -> Iterator[Problem]:
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig

    for part_seed in _parts("gsm_symbolic", seed):
        data = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=part_seed, size=_PART))
        for index in range(_PART):
            entry, template = data[index], data.task_indices[index]
            gold = parse_number(entry["answer"])
            if gold is None or gold < 0 or gold != int(gold):
                continue
            question, worked = entry["question"].removesuffix(_ASIDE), entry["metadata"]["answer_cot"]
            rng = rng_of_item("gsm_symbolic", VERSION, question)
            near = near_numbers(int(gold), rng, also=_whole_numbers(worked), never=_whole_numbers(question))
            details: dict[str, Any] = {
                "cluster": f"template {template}",  # such problems are alike: intervals count templates
                "solution": _solution(worked.rpartition("####")[0], str(int(gold))),
            }
            yield Problem(question, str(int(gold)), near, details)


def _whole_numbers(text: str) -> set[int]:
    return {int(number) for number in all_numbers(text) if number == int(number)}
