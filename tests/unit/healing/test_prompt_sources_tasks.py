from __future__ import annotations

import pytest

from layercut.engine.base import Completion
from layercut.errors import InputError
from layercut.healing.prompt_sources import task_prompts
from layercut.tasks import load_task


@pytest.mark.parametrize("name", ["arithmetic", "copy", "gsm_symbolic"])
def test_prompts_are_selection_items_asked_as_the_task_asks(name: str) -> None:
    task = load_task(name)
    found = task_prompts(task, limit=20)
    reported = {sample.id for sample in task.samples("report", None)}
    assert len(found.prompts) == 20
    assert not {one.id for one in found.prompts} & reported
    first = found.samples[found.prompts[0].id]
    assert found.prompts[0].prompt == task.request(first, found.readout).prompt
    assert found.stop


def test_the_tasks_own_answers_are_right_by_its_own_grader() -> None:
    found = task_prompts(load_task("arithmetic"), limit=10)
    for one in found.prompts:
        answers = [
            Completion(id=one.id, text=text, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
            for text in (one.answer, " 99999")
        ]
        assert found.are_right(answers) == [True, False]


@pytest.mark.parametrize("name", ["chain_sum", "gsm_symbolic:0"])
def test_worked_solutions_are_right_by_the_tasks_own_grader(name: str) -> None:
    found = task_prompts(load_task(name), limit=20)
    for one in found.prompts:
        answer = Completion(id=one.id, text=one.answer, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
        assert found.are_right([answer]) == [True], one
        assert "=" in one.answer and not one.answer.endswith("\n"), "the stop string is no part of an answer"


def test_two_readouts_of_an_item_are_two_prompts() -> None:
    task = load_task("chain_sum:0")
    chain, short = (task_prompts(task, readout=readout, limit=3) for readout in ("chain", "short"))
    assert not {one.id for one in chain.prompts} & {one.id for one in short.prompts}
    assert short.prompts[0].answer == f" The answer is {task.samples('selection', 1)[0].gold}."


def test_a_readout_that_generates_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="readout of arithmetic 'chain'"):
        task_prompts(load_task("arithmetic"), readout="chain")
