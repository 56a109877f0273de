from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.healing.data import N, ReportItems, examples_of, filter_answers, remove_contaminated
from layercut.healing.settings import FilterSettings
from tests.support.healing import record
from tests.support.tiny import byte_tokenizer

READER: Any = SimpleNamespace(tokenizer=byte_tokenizer(), name="tiny")

STORY = (
    "A small boat crossed the wide bay at dawn while gulls followed it and the old man at the oars told his "
    "granddaughter how the lighthouse had been built from stones that the sea had given back after a long storm."
)


def test_each_rule_drops_and_counts_its_own():
    records = [
        record("good", "What is up?", "Much."),
        record("empty", "a", " \n"),
        record("unfinished", "b", "and so", finish_reason="length"),
        record("twin", "what  is UP ?", "Little."),
    ]
    kept, dropped = filter_answers(records, FilterSettings())
    assert [one["id"] for one in kept] == ["good"]
    assert dropped == dict.fromkeys(("empty", "unfinished", "with a repeated prompt"), 1)


def test_by_default_languages_wrong_and_alike_answers_system_messages_and_items_of_a_task_stay():
    records = [
        record("a", "Расскажи мне короткую историю о лодке, пожалуйста.", "Это слово"),
        record("b", "e", "4", right=False),
        record("c", "f", "4"),
        record("d", f"Shorten: {STORY}", "Boat."),
        record("e", f"Extend: {STORY}", "Boats."),
    ]
    assert len(filter_answers(records, FilterSettings())[0]) == 5
    turns = [[{"role": "system", "content": STORY}, {"role": "user", "content": text}] for text in ("add", "divide")]
    under_system = [record(str(number), asked, f"answer {number}") for number, asked in enumerate(turns)]
    items = [record(f"item {n}", f"{STORY} 1 + 1 =", "2", task="arithmetic") for n in range(3)]
    assert len(filter_answers([*under_system, *items], FilterSettings())[0]) == 5


def test_wrong_answers_are_dropped_and_ungraded_ones_stay():
    records = [record("a", "d", "4", right=True), record("b", "e", "4", right=False), record("c", "f", "4")]
    kept, dropped = filter_answers(records, FilterSettings(right_only=True))
    assert [r["id"] for r in kept] == ["a", "c"] and dropped == {"wrong": 1}
    with pytest.raises(InputError, match="answers was graded"):
        filter_answers([record("a", "b", "c")], FilterSettings(right_only=True))


LONG = "Natalia sold clips to 48 of her friends in April and then she sold half as many clips in May, how many?"


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none():
    items = ReportItems({"gsm8k": [LONG]})
    said = LONG.split()
    thirteen, twelve = " ".join(said[3 : 3 + N]), " ".join(said[3 : 2 + N])
    assert items.found_in(f"Listen: {thirteen.upper()} !", "fine") == {"gsm8k"}
    assert items.found_in("Listen", f"I say {thirteen}.") == {"gsm8k"}
    assert items.found_in(f"Listen: {twelve} !", "fine") == set()


def test_short_items_count_where_they_are_asked_and_those_of_a_word_or_two_as_a_whole_line():
    items = ReportItems({"arithmetic": ["7 + 5"]})
    assert items.found_in("What is 7+5?", "12") == {"arithmetic"}
    assert items.found_in("What is 17 + 5?", "22") == set()
    assert items.found_in("What is 7 + 5 - 2?", "10") == set(), "another problem, of which the item is a part"
    assert items.found_in("7 + 5 =", "12") == {"arithmetic"}
    assert items.found_in("Add them all.", "7 + 5 = 12, and so on") == set()
    items = ReportItems({"openbookqa": ["Evaporation", "the sun"]})
    assert items.found_in("evaporation", "Water rises.") == {"openbookqa"}
    assert items.found_in("You are a helpful assistant.\nThe sun", "It shines.") == {"openbookqa"}
    assert items.found_in("Describe the process of evaporation under the sun.", "Water rises.") == set()


def test_the_number_removed_is_told_by_task():
    items = ReportItems({"arithmetic": ["7 + 5"], "gsm8k": [LONG]})
    records = [record("a", "What is 7 + 5?", "12"), record("b", LONG, "72"), record("c", "Hello", "Hi")]
    said: list[str] = []
    (example,), counts = examples_of(records, READER, FilterSettings(), items, 1000, "self answers", said.append)
    assert example.id == "c"
    assert counts == {"answers": 3, "dropped": {}, "contaminated": 2, "too_long_with_prompt": 0}
    assert said[0] == "self answers: 3 of 3 answers kept (none dropped)"
    assert said[1].endswith("(1 arithmetic, 1 gsm8k); 2 items of arithmetic, gsm8k were looked for")


def test_a_tasks_own_selection_items_are_disjoint_by_construction():
    items = ReportItems({"copy": ["river stone apple"], "arithmetic": ["7 + 5"]})
    own = record("a", "river stone apple tree", "x", task="copy")
    assert remove_contaminated([own], items) == ([own], {})
    assert remove_contaminated([own | {"task": "arithmetic"}], items) == ([], {"copy": 1})


def test_too_long_examples_are_left_out_whole():
    records = [{"id": str(n), "prompt": f"Count to {n}", "completion": "1" * n} for n in (3, 90)]
    said: list[str] = []
    given = (ReportItems({}), 50, "prompts", said.append)
    for filters, unit in ((None, "tokens"), (FilterSettings(), "tokens with their prompt")):
        examples, counts = examples_of(records, READER, filters, *given)
        assert [len(example.completion) for example in examples] == [4] and counts["too_long_with_prompt"] == 1
        assert said[-1] == f"prompts: 1 left out, longer than 50 {unit}"
