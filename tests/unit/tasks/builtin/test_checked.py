from __future__ import annotations

import pytest

from layercut.engine.base import Completion, GenerationRequest
from layercut.tasks import load_task
from layercut.tasks.base import Sample
from layercut.tasks.builtin.checked import CODE_REQUESTS, REQUESTS, CheckedTask, general, general_code
from layercut.tasks.suites import SIDE_EFFECTS
from tests.unit.tasks.builtin import graded

NAMES = (*SIDE_EFFECTS, "needle_8k")


def task_of(name: str) -> CheckedTask:
    task = load_task(name)
    assert isinstance(task, CheckedTask)
    return task


@pytest.mark.parametrize("name", NAMES)
def test_all_items_are_report_items_with_ids_of_their_own_in_a_mixed_order(name: str) -> None:
    task = task_of(name)
    samples = task.samples("report", None)
    assert len({sample.id for sample in samples}) == len(samples) == len(task.checks) >= 24
    assert task.samples("report", 5) == samples[:5]
    assert [sample.question for sample in samples] != [check.prompt for check in task.checks]
    assert task.samples("selection", None) == []
    assert task.chance(samples, "short") == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_request_is_one_turn_of_a_conversation(name: str) -> None:
    task = task_of(name)
    sample = task.samples("report", 1)[0]
    request = task.request(sample, "short")
    assert isinstance(request, GenerationRequest)
    assert [(turn.role, turn.content) for turn in request.prompt] == [("user", sample.question)]  # type: ignore[union-attr]


def test_an_empty_answer_passes_nowhere_but_where_only_its_end_counts() -> None:
    passing = {
        name
        for name, task in ((name, task_of(name)) for name in NAMES)
        for sample in task.samples("report", None)
        if graded(task, sample, "").metrics["accuracy"]
    }
    assert passing == {"endings"}


def test_what_was_cut_and_what_failed_are_told_apart() -> None:
    task = task_of("needle_2k")
    sample: Sample = task.samples("report", 1)[0]
    found = Completion(id=sample.id, text="The code is", finish_reason="length", num_prompt_tokens=3, num_new_tokens=6)
    assert task.grade(sample, "short", found).outcome == "cut"
    assert graded(task, sample, "There is none.").outcome == "wrong"
    assert graded(task, sample, "").outcome == "no_answer"


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
