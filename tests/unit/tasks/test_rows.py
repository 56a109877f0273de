from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from layercut.tasks.base import Sample, content_id
from layercut.tasks.own_file import balanced_order
from layercut.tasks.selected_items import SplitNames, choose_splits, first_samples


def sample(text: str) -> Sample:
    return Sample(id=content_id("t", text), question=text, gold="1")


@pytest.mark.parametrize(
    ("available", "names"),
    [
        ({"train", "validation", "test"}, ("validation", "test")),
        ({"train", "test"}, ("train", "test")),
        ({"train", "validation"}, ("train", "validation")),
        ({"validation"}, ("validation", "validation")),
        ({"train"}, ("train", "train")),
        ({"all"}, ("all", "all")),
    ],
)
def test_which_split_is_which(available: set[str], names: tuple[str, str]) -> None:
    assert choose_splits(available, selection=("validation", "train")) == names


def test_halves_share_nothing_and_keep_the_order() -> None:
    texts = [f"q{i}" for i in range(200)]
    names = SplitNames("all", "all")
    halves = {
        split: first_samples(split, names, lambda _: map(sample, texts), None) for split in ("report", "selection")
    }
    report, selection = ([s.question for s in halves[split]] for split in ("report", "selection"))
    assert not set(report) & set(selection)
    assert sorted(report + selection) == sorted(texts)
    assert report == sorted(report, key=texts.index)
    assert 70 < len(report) < 130
    assert first_samples("report", names, lambda _: map(sample, texts), 10) == halves["report"][:10]
    shuffled = first_samples("report", names, lambda _: map(sample, texts[::-1]), None)
    assert {s.id for s in shuffled} == {s.id for s in halves["report"]}


def test_twins_get_ids_of_their_own_and_stay_on_one_side() -> None:
    texts = ["a", "b", "a", "c", "a"]
    names = SplitNames("all", "all")
    halves = [first_samples(split, names, lambda _: map(sample, texts), None) for split in ("report", "selection")]
    ids = [s.id for half in halves for s in half]
    assert len(set(ids)) == 5
    with_a = [half for half in halves if any(s.question == "a" for s in half)]
    assert len(with_a) == 1
    assert [s.id for s in with_a[0] if s.question == "a"] == [content_id("t", "a") + end for end in ("", "-2", "-3")]


def test_a_selection_item_that_is_reported_as_well_is_left_out() -> None:
    data = {"train": ["a", "b", "b", "c"], "test": ["b", "d"]}
    selection = first_samples("selection", SplitNames("train", "test"), lambda split: map(sample, data[split]), None)
    assert [s.question for s in selection] == ["a", "c"]


def test_no_more_rows_are_read_than_needed() -> None:
    read: list[int] = []

    def rows(_: str) -> Iterator[Sample]:
        for i in range(1000):
            read.append(i)
            yield sample(str(i))

    first_samples("report", SplitNames("train", "test"), rows, 5)
    assert read == [0, 1, 2, 3, 4]


def test_every_beginning_of_a_draw_holds_each_answer_in_its_share_whatever_the_order() -> None:
    samples = [replace(sample(f"q{i}"), gold="yes" if i < 80 else "no") for i in range(120)]
    drawn = balanced_order(samples)
    for number in (15, 30, 60, 90):
        assert abs([item.gold for item in drawn[:number]].count("no") - number / 3) <= 2
    assert balanced_order(samples[::-1]) == drawn and sorted(item.id for item in drawn) == sorted(
        item.id for item in samples
    )
    assert balanced_order(samples, seed=1) != drawn
    places = [int(item.question[1:]) for item in balanced_order([replace(item, gold=item.id) for item in samples])[:40]]
    assert 40 < sum(places) / 40 < 80, "answers that all differ are drawn from the whole file"
