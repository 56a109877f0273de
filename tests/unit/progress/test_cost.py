from __future__ import annotations

import pytest

from layercut.progress.bars import TimeLeft, Workload, clock_text
from tests.unit.progress.conftest import Clock


def time_left(**pieces: tuple[str, int]) -> TimeLeft:
    return TimeLeft({name: Workload(kind=kind, num_items=num) for name, (kind, num) in pieces.items()})


def test_a_kind_is_judged_by_its_own_speed_and_nothing_is_promised_before(clock: Clock) -> None:
    left = time_left(a=("rank", 10), b=("chain", 10), c=("rank", 10))
    assert left.seconds("abc") is None
    left.begin("ab")
    clock.now = 20.0
    left.add("a", 10)
    assert left.seconds("abc") is None, "chains were not measured"
    assert left.seconds("ac") == left.seconds("c") == 20.0
    clock.now = 25.0
    left.add("b", 5)
    assert left.seconds("abc") == pytest.approx(5 * 1.0 + 10 * 2.0)
    assert left.count("abc") == (15, 30)


def test_items_of_before_do_not_count_as_fast(clock: Clock) -> None:
    left = time_left(a=("rank", 10), b=("rank", 4))
    left.reach("a", 6, 10)
    clock.now = 12.0
    left.reach("a", 9, 10)
    assert left.seconds("a") == pytest.approx(4.0)
    left.skip("a")
    left.skip("a")
    assert (left.seconds("a"), left.seconds("ab"), left.count("ab")) == (0, 4 * 4.0, (10, 14))


def test_a_quarter_of_the_items_or_twenty_are_timed_first(clock: Clock) -> None:
    left = time_left(a=("rank", 12), b=("chain", 100))
    left.reach("a", 0, 12)
    left.reach("b", 0, 100)
    for seconds, done, known in ((2.0, 2, False), (3.0, 3, True)):
        clock.now = seconds
        left.reach("a", done, 12)
        assert (left.seconds("a") is not None) == known
    for seconds, done, known in ((19.0, 19, False), (20.0, 20, True)):
        clock.now = seconds
        left.reach("b", done, 100)
        assert (left.seconds("b") is not None) == known


def test_the_first_items_were_known_if_they_are_ten_times_as_fast(clock: Clock) -> None:
    left = time_left(a=("round", 8))
    for seconds, done in ((0, 0), (1, 1), (2, 2), (102, 3)):
        clock.now = float(seconds)
        left.reach("a", done, 8)
    assert left.seconds("a") is None, "of rounds that were not known only one was timed"
    clock.now = 152.0
    left.reach("a", 4, 8)
    assert left.seconds("a") == pytest.approx(4 * 75)


def test_the_time_left_falls_while_an_item_is_worked_on_by_its_own_time_at_most(clock: Clock) -> None:
    left = time_left(a=("train", 3), b=("train", 2))
    left.reach("a", 0, 3)
    clock.now = 60.0
    left.reach("a", 1, 3)
    clock.now = 80.0
    assert (left.seconds("ab"), left.seconds("a"), left.seconds("b")) == (220, 100, 120)
    clock.now = 400.0
    assert left.seconds("ab") == 180, "it takes longer than the last one; the others are still left"
    clock.now = 560.0
    assert left.seconds("ab") is None, "it takes longer than all others would: nothing is known any more"
    left.reach("a", 3, 3)
    assert left.seconds("ab") == pytest.approx(2 * 560 / 3), "its items are done"


def test_a_piece_that_begins_again_does_not_time_what_lies_between(clock: Clock) -> None:
    left = time_left(a=("rank", 2))
    left.reach("a", 2, 2)
    clock.now = 500.0
    left.begin("a")
    left.reach("a", 0, 2)
    clock.now = 503.0
    left.reach("a", 1, 2)
    assert left.seconds("a") == 3.0


@pytest.mark.parametrize("seconds, text", [(41, "00:41"), (3723, "1:02:03"), (86400, "1 day 0:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
