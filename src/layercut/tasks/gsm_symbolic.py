"""Grade-school word problems from templates, solved step by step after two examples.

The problems are those of ``gsm_symbolic`` in the library reasoning-gym, which fills the templates of Mirzadeh et al.,
"GSM-Symbolic", arXiv:2410.05229, with names and numbers.

A sample problem: "A boy has 21 toys. His friend has 10 fewer toys than he has. How many toys do they have together?" is
answered by "His friend has 21 - 10 = 11 toys. Together they have 21 + 11 = 32 toys. The answer is 32."; its options are
32, 29, 22 and 11, each as "The answer is 32." right after the problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from layercut.tasks.few_shot import FewShotTask, Problem, item_rng, near_numbers
from layercut.tasks.grading import all_numbers, parse_number
from layercut.tasks.in_steps import MAX_NEW_TOKENS, Worked, in_steps, solution

VERSION = 1
"""Raised by any change of the near misses, the examples, the prompt or the grading. The library's version stands in the
settings, because it decides the problems."""
NUM_SAMPLES = 1000  # samples in each split

_ASIDE = " Give the result as your final answer. Do not include units."
_EXAMPLES = (
    Worked(
        "Nora picks 14 plums and buys 3 bags of 6 plums each. She eats 5 plums. How many plums are left?",
        "The bags hold 3 * 6 = 18 plums. In all she has 14 + 18 = 32 plums. After eating she has 32 - 5 = 27 plums. "
        "The answer is 27.",
    ),
    Worked(
        "A train has 8 cars with 40 seats each. A quarter of the seats are empty. How many seats are taken?",
        "There are 8 * 40 = 320 seats. 320 / 4 = 80 are empty. 320 - 80 = 240 are taken. The answer is 240.",
    ),
)


def gsm_symbolic(*, seed: int = 0, max_new_tokens: int = MAX_NEW_TOKENS, num_shots: int | None = None) -> FewShotTask:
    """Word problems with whole answers that are not negative; the library's few others are left out.

    Near misses are slips in the first two digits and intermediate results of the library's worked solution. Numbers
    that stand in the problem are left out: small models favour whatever they have just read, and with such options
    SmolLM2-135M ranked below chance (8 of 64 right).

    ``short`` asks for the last sentence at once, after examples without steps. Examples, grading and early verdicts:
    see ``in_steps``.

    ``max_new_tokens`` is the length of a chain at most; ``num_shots`` how many examples are shown.
    """
    return in_steps(
        name="gsm_symbolic",
        version=VERSION,
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        examples=_EXAMPLES,
        num_shots=num_shots,
        max_new_tokens=max_new_tokens,
    )


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
            of_template = {"template": template, "cluster": f"template {template}"}
            steps = entry["metadata"]["answer_cot"].rpartition("####")[0]
            yield Problem(question, str(int(gold)), near, of_template | solution(steps, str(int(gold))))


_PART = 512  # problems asked from the library at a time


def _whole_numbers(text: str) -> set[int]:
    return {int(number) for number in all_numbers(text) if number == int(number)}
