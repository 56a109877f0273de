"""The numbers of ``chain_sum`` by an independent computation."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from layercut.errors import InputError
from layercut.tasks import load_task
from tests.unit.tasks.test_few_shot import built_in

SAMPLES = built_in("chain_sum").samples("report", 200)


def test_the_answer_is_what_python_makes_of_the_expression() -> None:
    for sample in SAMPLES:
        expression = sample.question.removesuffix(" = ?")
        assert re.fullmatch(r"\d{1,2}( [+-] \d{1,2}){4,6}", expression)
        assert int(sample.gold) == eval(expression) >= 0


def test_every_step_is_true_and_begins_where_the_last_one_ended() -> None:
    for sample in SAMPLES:
        steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", sample.data["solution"])
        assert all(eval(f"{left} {sign} {right}") == int(total) for left, sign, right, total in steps)
        assert all(one[3] == other[0] for one, other in pairwise(steps))
        terms = sample.question.split()[:-2]
        assert [steps[0][0], *(part for step in steps for part in step[1:3])] == terms, "the steps read the question"
        assert sample.data["solution"].endswith(f" {steps[-1][3]}. The answer is {sample.gold}.\n")


def test_examples_are_shown_as_many_as_are_wanted() -> None:
    none, one, both = (load_task(name) for name in ("chain_sum:0", "chain_sum:1", "chain_sum"))
    prompts = [task.request(SAMPLES[0], "chain").prompt for task in (none, one, both)]
    assert prompts[0] == f"Q: {SAMPLES[0].question}\nA:"
    assert [prompt.count("Q: ") for prompt in prompts] == [1, 2, 3]
    assert len({str(task.settings()) for task in (none, one, both)}) == 3
    with pytest.raises(InputError, match="not 3; use 0 to 2"):
        load_task("chain_sum:3")
