from __future__ import annotations

import re
from itertools import pairwise

import pytest

from layercut.tasks.builtin.side_effects import (
    _REQUESTS,
    _RULES,
    endings,
    instructions,
    language_of,
    needle_2k,
    needle_8k,
    parsed,
    same_language,
)
from tests.unit.tasks.builtin import graded, passes


def test_an_answer_that_is_stopped_by_its_length_fails() -> None:
    task = endings()
    sample = task.samples("report", 1)[0]
    assert graded(task, sample, "It is a force.").metrics == {"accuracy": 1.0}
    cut = graded(task, sample, "It is a force, a force, a force,", "length")
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
def test_each_rule_tells_what_follows_it_from_what_does_not(part: str) -> None:
    right, wrong = RIGHT[part]
    assert passes(instructions(), part, right)
    assert not passes(instructions(), part, wrong)


def test_every_rule_is_tested() -> None:
    assert [sum(part in rule for part in RIGHT) for rule in _RULES] == [1] * len(_RULES)


@pytest.mark.parametrize("text", ["", "{", "```\n{\n```", "Here it is: {}"])
def test_what_is_no_json_alone_is_none(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize("language", list(_REQUESTS))
def test_every_request_is_in_its_own_language(language: str) -> None:
    assert [language_of(request) for request in _REQUESTS[language]] == [language] * 4


def test_an_answer_in_english_fails() -> None:
    task = same_language()
    assert passes(task, "Himmel", "Der Himmel ist blau, weil die Luft das Licht streut.")
    assert not passes(task, "Himmel", "The sky is blue because the air scatters the light.")
    assert passes(task, "天空", "因为空气散射阳光中的蓝光。")
    assert not passes(task, "天空", "空が青いのは、空気が光を散乱させるからです。")


@pytest.mark.parametrize(("task", "words"), [(needle_2k(), 1300), (needle_8k(), 5200)])
def test_each_text_holds_its_code_once_and_places_go_from_the_beginning_to_the_end(task: object, words: int) -> None:
    samples = task.samples("report", None)  # type: ignore[attr-defined]
    places = sorted(sample.question.index(sample.gold) / len(sample.question) for sample in samples)
    assert places[0] < 0.02 and places[-1] > 0.95
    assert max(b - a for a, b in pairwise(places)) < 0.06
    for sample in samples:
        assert len(re.findall(r"\d{6}", sample.question)) == 1
        assert words < len(sample.question.split()) < words + 60


def test_the_code_counts_however_it_is_written() -> None:
    task = needle_2k()
    sample = task.samples("report", 1)[0]
    code = sample.gold
    for text, right in ((code, 1), (f"It is {code[:3]},{code[3:]}.", 1), (f"{code[:3]} {code[3:]}", 1), (code[1:], 0)):
        assert graded(task, sample, text).metrics["accuracy"] == right
