from __future__ import annotations

import pytest

from layercut.tasks.side_effects.instructions import _RULES, instructions, parsed
from tests.unit.tasks.side_effects import passes

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
