"""General requests: selection items alone, none of them one of a check, right where the answer ended."""

from __future__ import annotations

import pytest

from layercut.engine.base import Completion
from layercut.tasks import load_task
from layercut.tasks.checked import CheckedTask
from layercut.tasks.general import CODE_REQUESTS, REQUESTS, general, general_code
from layercut.tasks.suites import SIDE_EFFECTS


@pytest.mark.parametrize(
    ("task", "requests", "number"), [(general(), REQUESTS, 50), (general_code(), CODE_REQUESTS, 30)]
)
def test_they_choose_and_are_never_reported(task: CheckedTask, requests: tuple[str, ...], number: int) -> None:
    assert {one.question for one in task.samples("selection", None)} == set(requests)
    assert len(set(requests)) == len(requests) == number
    assert task.samples("report", None) == [] and len(task.samples("full", 7)) == 7


def test_no_request_is_one_of_a_check() -> None:
    checked = {one.question for name in SIDE_EFFECTS for one in load_task(name).samples("report", None)}
    assert checked and not checked & {*REQUESTS, *CODE_REQUESTS}


def test_an_answer_that_does_not_end_is_wrong() -> None:
    task = general()
    sample = task.samples("selection", 1)[0]
    for reason, outcome in (("stop", "right"), ("length", "cut")):
        answer = Completion(id=sample.id, text="A frog", finish_reason=reason, num_prompt_tokens=9, num_new_tokens=2)  # type: ignore[arg-type]
        assert task.grade(sample, "short", answer).outcome == outcome
