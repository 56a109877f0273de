"""Grade-school word problems from templates, solved step by step after two examples.

The problems are those of ``gsm_symbolic`` in the library reasoning-gym, which fills the templates of Mirzadeh et al.,
"GSM-Symbolic", arXiv:2410.05229, with names and numbers.

A sample problem: "A boy has 21 toys. His friend has 10 fewer toys than he has. How many toys do they have together?" is
answered by "His friend has 21 - 10 = 11 toys. Together they have 21 + 11 = 32 toys. The answer is 32."; its options are
32, 29, 22 and 11, each as "The answer is 32." right after the problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version as version_of
from itertools import count
from random import Random

from layercut.tasks.few_shot import FewShotTask, Problem, item_rng
from layercut.tasks.grading import all_numbers, number_after, number_after_stands, parse_number, place_after
from layercut.tasks.near_misses import near_numbers

VERSION = 1
"""Raised by any change of the near misses, the examples, the prompt or the grading. The library's version stands in the
settings, because it decides the problems."""
NUM_SAMPLES = 1000
"""Of each split."""
MAX_NEW_TOKENS = 128
"""Longest chain."""

_ASIDE = " Give the result as your final answer. Do not include units."
_EXAMPLES = (
    (
        "Nora picks 14 plums and buys 3 bags of 6 plums each. She eats 5 plums. How many plums are left?",
        "The bags hold 3 * 6 = 18 plums. In all she has 14 + 18 = 32 plums. After eating she has 32 - 5 = 27 plums. "
        "The answer is 27.",
    ),
    (
        "A train has 8 cars with 40 seats each. A quarter of the seats are empty. How many seats are taken?",
        "There are 8 * 40 = 320 seats. 320 / 4 = 80 are empty. 320 - 80 = 240 are taken. The answer is 240.",
    ),
)
_MARK = "The answer is"


def gsm_symbolic(*, seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS) -> FewShotTask:
    """Word problems with whole answers that are not negative; the library's few others are left out.

    Near misses are slips in the first two digits and intermediate results of the library's worked solution. Numbers
    that stand in the problem are left out: small models favour whatever they have just read, and with such options
    SmolLM2-135M ranked below chance (8 of 64 right).

    Grading of chains: the number right after the first "The answer is" must have the right value. A currency sign
    before it, a unit behind it, commas between thousands and a colon are let through, as in "The answer is $1,234
    dollars."; a percent sign is taken for a unit, because the question says what it asks for. "The answer is 3 * 5 =
    15" answers 3. A chain without these words has no answer, whatever numbers stand in it.

    ``short`` asks for the same sentence at once, after examples without steps.

    ``max_new_tokens`` is the length of a chain at most.

    Early verdict: once that number is complete, right or wrong alike; a damaged model may go on for long after it.
    """
    return FewShotTask(
        name="gsm_symbolic",
        version=VERSION,
        readouts=("chain", "rank"),
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        examples="".join(f"{_prompt(question)} {steps}\n" for question, steps in _EXAMPLES),
        example_questions=frozenset(question for question, _ in _EXAMPLES),
        prompt=_prompt,
        answer=_answer,
        find=find_final_number,
        is_right=_same,
        max_new_tokens=max_new_tokens,
        stop=("\n",),
        settles=_settles,
        place=partial(place_after, _MARK),
        answer_begins=f" {_MARK}",
        short_examples="".join(_prompt(question) + _answer(find_final_number(steps)) for question, steps in _EXAMPLES),
        short_tokens=16,
        further_readouts=("short", "gold", "token"),
        made_with={
            "reasoning_gym": version_of("reasoning-gym"),
            **({} if max_new_tokens == MAX_NEW_TOKENS else {"max_new_tokens": str(max_new_tokens)}),
        },
    )


def find_final_number(text: str) -> str:
    """The number right after the first "The answer is".

    >>> find_final_number("So 9 + 6 = 15. The answer is $1,234 dollars.")
    '1234'
    >>> find_final_number("So 9 + 6 = 15 toys.")
    ''
    """
    return number_after(_MARK, text)


def _settles(text: str, gold: str) -> bool:
    return number_after_stands(_MARK, text)


def _problems(seed: int) -> Iterator[Problem]:
    # Imported here, because the library takes seconds and brings a hundred other generators along.
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig

    for part in count():
        # The data set draws problem i from its seed + i, so neighbouring seeds would share problems.
        its_seed = Random(f"gsm_symbolic {VERSION} {seed} {part}").getrandbits(48)
        data = GSMSymbolicDataset(GSMSymbolicDatasetConfig(seed=its_seed, size=_PART))
        for index in range(_PART):
            entry = data[index]
            gold = parse_number(entry["answer"])
            if gold is None or gold < 0 or gold != int(gold):
                continue
            question = entry["question"].removesuffix(_ASIDE)
            near = near_numbers(
                int(gold),
                item_rng("gsm_symbolic", VERSION, question),
                also=_whole_numbers(entry["metadata"]["answer_cot"]),
                never=_whole_numbers(question),
            )
            template = data.task_indices[index]
            # Problems of one template are alike: intervals count templates, not problems.
            yield Problem(question, str(int(gold)), near, {"template": template, "cluster": f"template {template}"})


_PART = 512
"""Problems asked from the library at a time."""


def _whole_numbers(text: str) -> set[int]:
    return {int(number) for number in all_numbers(text) if number == int(number)}


def _same(answer: str, gold: str) -> bool:
    return parse_number(answer) == parse_number(gold)


def _prompt(question: str) -> str:
    return f"Q: {question}\nA:"


def _answer(option: str) -> str:
    return f" {_MARK} {option}.\n"
