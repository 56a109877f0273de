from __future__ import annotations

from layercut.healing.decontaminate import N, ReportItems, decontaminate
from tests.support.healing import record

LONG = "Natalia sold clips to 48 of her friends in April and then she sold half as many clips in May, how many?"


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none() -> None:
    items = ReportItems({"gsm8k": [LONG]})
    words = LONG.split()
    thirteen, twelve = " ".join(words[3 : 3 + N]), " ".join(words[3 : 2 + N])
    assert items.found_in(f"Listen: {thirteen.upper()} !", "fine") == {"gsm8k"}
    assert items.found_in("Listen", f"I say {thirteen}.") == {"gsm8k"}
    assert items.found_in(f"Listen: {twelve} !", "fine") == set()


def test_short_items_count_where_they_are_asked_and_not_inside_an_answer() -> None:
    items = ReportItems({"arithmetic": ["7 + 5"]})
    assert items.found_in("What is 7+5?", "12") == {"arithmetic"}
    assert items.found_in("What is 17 + 5?", "22") == set()
    assert items.found_in("What is 7 + 5 - 2?", "10") == set(), "another problem, of which the item is a part"
    assert items.found_in("7 + 5 =", "12") == {"arithmetic"}
    assert items.found_in("Add them all.", "7 + 5 = 12, and so on") == set()


def test_an_item_of_a_word_or_two_is_looked_for_as_a_whole_line_alone() -> None:
    items = ReportItems({"openbookqa": ["Evaporation", "the sun"]})
    assert items.found_in("evaporation", "Water rises.") == {"openbookqa"}
    assert items.found_in("You are a helpful assistant.\nThe sun", "It shines.") == {"openbookqa"}
    assert items.found_in("Describe the process of evaporation under the sun.", "Water rises.") == set()


def test_the_number_removed_is_told_by_task() -> None:
    items = ReportItems({"arithmetic": ["7 + 5"], "gsm8k": [LONG]})
    records = [record("a", "What is 7 + 5?", "12"), record("b", LONG, "72"), record("c", "Hello", "Hi")]
    found = decontaminate(records, items)
    assert [one["id"] for one in found.records] == ["c"]
    assert found.removed == {"arithmetic": 1, "gsm8k": 1}
    assert found.describe().startswith(
        "2 answers removed because they contain report items (1 arithmetic, 1 gsm8k); 2 items"
    )


def test_a_tasks_own_selection_items_are_disjoint_by_construction() -> None:
    items = ReportItems({"copy": ["river stone apple"], "arithmetic": ["7 + 5"]})
    own = record("a", "river stone apple tree", "x", task="copy")
    assert decontaminate([own], items).num_removed == 0
    assert decontaminate([own | {"task": "arithmetic"}], items).num_removed == 1
