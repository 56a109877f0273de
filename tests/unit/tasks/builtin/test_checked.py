from __future__ import annotations

import re
from itertools import pairwise

import pytest

from layercut.engine.base import FinishReason, GenerationRequest
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Score
from layercut.tasks.builtin.checked import (
    _RULES,
    REQUESTS,
    CheckedTask,
    endings,
    general,
    general_code,
    instructions,
    language_of,
    needle_2k,
    needle_8k,
    parsed_answer,
    same_language,
)
from layercut.tasks.suites import SIDE_EFFECTS
from tests.support.answers import completion

NAMES = (*SIDE_EFFECTS, "needle_8k")


def graded(task: CheckedTask, sample: Sample, text: str, finish_reason: FinishReason = "stop") -> Score:
    return task.grade(sample, "short", completion(text, finish_reason))


def passes(task: CheckedTask, part: str, text: str) -> bool:
    """Whether a text passes the first request that holds ``part``."""
    sample = next(sample for sample in task.samples("report", None) if part in sample.question)
    return bool(graded(task, sample, text).metrics["accuracy"])


def task_of(name: str) -> CheckedTask:
    task = load_task(name)
    assert isinstance(task, CheckedTask)
    return task


@pytest.mark.parametrize("name", NAMES)
def test_all_items_are_report_items_with_ids_of_their_own_in_a_mixed_order(name):
    task = task_of(name)
    samples = task.samples("report", None)
    assert len({sample.id for sample in samples}) == len(samples) == len(task.checks) >= 24
    assert task.samples("report", 5) == samples[:5]
    assert [sample.question for sample in samples] != [check.prompt for check in task.checks]
    assert task.samples("selection", None) == [] and task.chance(samples, "short") == {}
    request = task.request(samples[0], "short")
    assert isinstance(request, GenerationRequest) and request.prompt == (("user", samples[0].question),)


def test_an_empty_answer_passes_nowhere_but_where_only_its_end_counts():
    passing = {
        name
        for name, task in ((name, task_of(name)) for name in NAMES)
        for sample in task.samples("report", None)
        if graded(task, sample, "").metrics["accuracy"]
    }
    assert passing == {"endings"}


def test_what_was_cut_and_what_failed_are_told_apart():
    task = task_of("needle_2k")
    sample = task.samples("report", 1)[0]
    ends = [graded(task, sample, *end).outcome for end in (("The code is", "length"), ("There is none.",), ("",))]  # type: ignore[arg-type]
    assert ends == ["cut", "wrong", "no_answer"]


@pytest.mark.parametrize(("task", "number"), [(general(), 50), (general_code(), 30)])
def test_they_choose_and_are_never_reported(task, number):
    requests = REQUESTS[task.name]
    assert {sample.question for sample in task.samples("selection", None)} == set(requests)
    assert len(set(requests)) == len(requests) == number
    assert task.samples("report", None) == [] and len(task.samples("full", 7)) == 7


def test_no_request_is_one_of_a_check():
    checked = {sample.question for name in SIDE_EFFECTS for sample in load_task(name).samples("report", None)}
    assert checked and not checked & {*REQUESTS["general"], *REQUESTS["general_code"]}


@pytest.mark.parametrize(("task", "split"), [(general(), "selection"), (endings(), "report")])
def test_an_answer_that_does_not_end_is_wrong(task, split):
    sample = task.samples(split, 1)[0]  # type: ignore[arg-type]
    assert graded(task, sample, "A frog").metrics == {"accuracy": 1.0}
    cut = graded(task, sample, "A frog, a frog,", "length")
    assert (cut.metrics, cut.outcome) == ({"accuracy": 0.0}, "cut")


RIGHT = {
    "lower case": ("trees are tall.", "Trees are tall."),
    "capital letters only": ("TREES ARE TALL.", "TREES are tall."),
    "comma": ("Trees and birds.", "Trees, birds."),
    "three bullet": ("- trees\n- birds\n- moss", "- trees\n- birds"),
    "That is all": ("Trees. That is all.", "That is all. Trees."),
    "word Listen": ("Listen to the birds.", "Birds: listen."),
    "double quotation": ('"Trees."', '"Trees" are tall.'),
    "angular": ("<<Trees>> They are tall.", "<Trees> They are tall."),
    "wonderful": ("Wonderful trees, wonderful birds.", "Wonderful trees."),
    "three stars": ("Trees.\n***\nBirds.", "Trees.\n\nBirds."),
    "ten words": ("Trees are tall.", "Trees are tall and " * 4),
    "JSON": ('```json\n{"title": "Trees", "text": "Tall."}\n```', '{"title": "Trees"}'),
}


@pytest.mark.parametrize("part", list(RIGHT))
def test_each_rule_tells_what_follows_it_from_what_does_not(part):
    right, wrong = RIGHT[part]
    assert passes(instructions(), part, right)
    assert not passes(instructions(), part, wrong)


def test_every_rule_is_tested():
    assert [sum(part in rule for part in RIGHT) for rule in _RULES] == [1] * len(_RULES)
    assert [parsed_answer(text) for text in ("", "{", "```\n{\n```", "Here it is: {}")] == [None] * 4


@pytest.mark.parametrize("language", list(REQUESTS["same_language"]))
def test_every_request_is_in_its_own_language(language):
    assert [language_of(request) for request in REQUESTS["same_language"][language]] == [language] * 4


def test_an_answer_in_english_fails():
    task = same_language()
    assert passes(task, "Himmel", "Der Himmel ist blau, weil die Luft das Licht streut.")
    assert not passes(task, "Himmel", "The sky is blue because the air scatters the light.")
    assert passes(task, "天空", "因为空气散射阳光中的蓝光。")
    assert not passes(task, "天空", "空が青いのは、空気が光を散乱させるからです。")


@pytest.mark.parametrize(("task", "words"), [(needle_2k(), 1300), (needle_8k(), 5200)])
def test_each_text_holds_its_code_once_and_places_go_from_the_beginning_to_the_end(task, words):
    samples = task.samples("report", None)  # type: ignore[attr-defined]
    places = sorted(sample.question.index(sample.gold) / len(sample.question) for sample in samples)
    assert places[0] < 0.02 and places[-1] > 0.95
    assert max(b - a for a, b in pairwise(places)) < 0.06
    for sample in samples:
        assert len(re.findall(r"\d{6}", sample.question)) == 1
        assert words < len(sample.question.split()) < words + 60


def test_the_code_counts_however_it_is_written():
    task = needle_2k()
    sample = task.samples("report", 1)[0]
    code = sample.gold
    for text, right in ((code, 1), (f"It is {code[:3]},{code[3:]}.", 1), (f"{code[:3]} {code[3:]}", 1), (code[1:], 0)):
        assert graded(task, sample, text).metrics["accuracy"] == right
