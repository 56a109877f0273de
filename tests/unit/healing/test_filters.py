from __future__ import annotations

import re
import sys

import pytest

from layercut.errors import InputError, MissingExtra
from layercut.healing.filters import FilterSettings, filter_responses
from layercut.healing.languages import _identifier
from tests.support.healing import record

STORY = (
    "A small boat crossed the wide bay at dawn while gulls followed it and the old man at the oars told his "
    "granddaughter how the lighthouse had been built from stones that the sea had given back after a long storm."
)


def test_each_rule_drops_and_counts_its_own() -> None:
    records = [
        record("good", "What is up?", "Much."),
        record("empty", "a", " \n"),
        record("unfinished", "b", "and so", finish_reason="length"),
        record("long", "c", "x", num_prompt_tokens=5000, num_new_tokens=3001),
        record("just fits", "d", "xyz", num_prompt_tokens=5000, num_new_tokens=3000),
        record("short", "e", "y", num_new_tokens=1),
        record("twin", "what  is UP ?", "Little."),
        record("same words", "f", "much ."),
    ]
    found = filter_responses(records, FilterSettings(min_tokens=2, dedup_answers=1.0))
    assert [one["id"] for one in found.records] == ["good", "just fits"]
    assert found.dropped == {
        "empty": 1,
        "unfinished": 1,
        "too long": 1,
        "too short": 1,
        "wrong": 0,
        "in another language": 0,
        "with a repeated prompt": 1,
        "with a repeated answer": 1,
    }
    assert found.describe().startswith("2 of 8 answers kept (1 empty, 1 unfinished, 1 too long, 1 too short, 1 with a")


def test_by_default_every_language_wrong_answers_and_alike_ones_stay() -> None:
    records = [
        record("a", "Расскажи мне короткую историю о лодке, пожалуйста.", "Это слово"),
        record("b", "e", "4", right=False),
        record("c", "f", "4"),
        record("d", f"Shorten: {STORY}", "Boat."),
        record("e", f"Extend: {STORY}", "Boats."),
    ]
    assert len(filter_responses(records, FilterSettings()).records) == 5


def test_wrong_answers_are_dropped_and_ungraded_ones_stay() -> None:
    records = [record("a", "d", "4", right=True), record("b", "e", "4", right=False), record("c", "f", "4")]
    found = filter_responses(records, FilterSettings(right_only=True))
    assert [r["id"] for r in found.records] == ["a", "c"]
    assert found.dropped["wrong"] == 1
    with pytest.raises(InputError, match="none of these answers was graded"):
        filter_responses([record("a", "b", "c")], FilterSettings(right_only=True))


def test_almost_the_same_prompts_and_answers_are_dropped_where_that_is_wanted() -> None:
    pytest.importorskip("datasketch", reason="needs layercut[heal]")
    records = [
        record("first", f"Shorten: {STORY}", STORY),
        record("prompt", f"Please shorten: {STORY}", "A boat and a story."),
        record("answer", "Tell a story.", STORY.replace("dawn", "noon")),
        record("other", "Tell another story.", "There is none."),
    ]
    found = filter_responses(records, FilterSettings(dedup_prompts=0.8, dedup_answers=0.7))
    assert [one["id"] for one in found.records] == ["first", "other"]
    assert (found.dropped["with a repeated prompt"], found.dropped["with a repeated answer"]) == (1, 1)


def test_shared_system_messages_and_the_items_of_a_task_are_no_repetition() -> None:
    pytest.importorskip("datasketch", reason="needs layercut[heal]")
    settings = FilterSettings(dedup_prompts=0.5, dedup_answers=0.5)
    turns = [[{"role": "system", "content": STORY}, {"role": "user", "content": text}] for text in ("add", "divide")]
    under_system = [record(str(number), asked, f"answer {number}") for number, asked in enumerate(turns)]
    items = [record(f"item {n}", f"{STORY} {n} + 1 =", f"{STORY} {n + 1}", task="arithmetic") for n in range(3)]
    assert len(filter_responses([*under_system, *items], settings).records) == 5


def test_answers_in_other_languages_are_dropped_where_it_can_be_told() -> None:
    pytest.importorskip("py3langid", reason="needs layercut[heal]")
    german = "Ein kleines Boot fuhr im Morgengrauen über die weite Bucht, und die Möwen folgten ihm."
    records = [
        record("english", "Tell a story, please, of a small boat at dawn.", STORY),
        record("numbers", "Count.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20"),
        record("short", "Say it in French.", "Bonjour!"),
        record("program", "Write a Python program.", 'def f(x):\n    for i in range(x):\n        print(i, end="")\n'),
        record("answer", "Tell a story, please, of a small boat at dawn", german),
        record("prompt", german, STORY + " Later they slept."),
    ]
    kept = filter_responses(records, FilterSettings(languages=("en",)))
    assert [one["id"] for one in kept.records] == ["english", "numbers", "short", "program"]
    assert kept.dropped["in another language"] == 2
    assert len(filter_responses(records, FilterSettings(languages=("en", "de"))).records) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dedup_prompts": 0.0}, "dedup_prompts 0.0 is too small"),
        ({"dedup_answers": 1.5}, "dedup_answers 1.5 is too large"),
        ({"max_tokens": 5, "min_tokens": 6}, "max_tokens 5 removes every answer"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FilterSettings(**settings)  # type: ignore[arg-type]


def test_what_a_rule_needs_is_checked_before_anything_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("py3langid", reason="needs layercut[heal]")
    with pytest.raises(InputError, match="unknown language 'english'. Known: "):
        FilterSettings(languages=("english",)).check()
    _identifier.cache_clear()
    for library in ("py3langid.langid", "datasketch"):
        monkeypatch.setitem(sys.modules, library, None)
    FilterSettings().check()
    for needs in (FilterSettings(languages=("en",)), FilterSettings(dedup_answers=0.9)):
        with pytest.raises(MissingExtra, match=r"pip install .*\[heal\]'"):
            needs.check()
