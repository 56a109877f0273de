from __future__ import annotations

import pytest

from layercut.errors import InputError
from layercut.healing.filters import FilterSettings, filter_responses, latin_share
from tests.support.healing import record


def test_each_rule_drops_and_counts_its_own() -> None:
    records = [
        record("good", "What is up?", "Much."),
        record("empty", "a", " \n"),
        record("unfinished", "b", "and so", finish_reason="length"),
        record("long", "c", "x", num_new_tokens=9000),
        record("script", "d", "Это слово"),
        record("twin", "what  is UP?", "Little."),
    ]
    found = filter_responses(records, FilterSettings(min_latin_share=0.5))
    assert [one["id"] for one in found.records] == ["good"]
    assert found.dropped == {
        "empty": 1,
        "unfinished": 1,
        "too long": 1,
        "wrong": 0,
        "other script": 1,
        "repeated": 1,
    }
    assert found.describe().startswith("1 of 6 answers kept (1 empty, 1 unfinished, 1 too long")


def test_by_default_every_script_and_wrong_answers_stay() -> None:
    records = [record("a", "d", "Это слово"), record("b", "e", "4", right=False)]
    assert len(filter_responses(records, FilterSettings()).records) == 2


def test_only_graded_answers_can_be_filtered_by_their_grade() -> None:
    records = [record("a", "d", "4", right=True), record("b", "e", "4", right=False)]
    assert [r["id"] for r in filter_responses(records, FilterSettings(right_only=True)).records] == ["a"]
    with pytest.raises(InputError, match="not graded"):
        filter_responses([record("a", "b", "c")], FilterSettings(right_only=True))


def test_latin_letters_with_accents_are_latin() -> None:
    assert latin_share("éàß") == 1.0
    assert latin_share("αβ") == 0.0
