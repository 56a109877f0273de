from __future__ import annotations

import pytest

from layercut.progress.cost import Eta, Workload


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert Eta([Workload(kind="a", num_items=10, weight=1)]).remaining is None


def test_a_measured_kind_is_judged_by_its_own_speed() -> None:
    eta = Eta(
        [
            Workload(kind="a", num_items=10, weight=1),
            Workload(kind="b", num_items=10, weight=50),
            Workload(kind="a", num_items=10, weight=1),
        ]
    )
    eta.advance(0, 10, 20.0)
    assert eta.remaining is None, "b was not measured"
    assert eta.remaining_of([2]) == 20.0
    eta.advance(1, 5, 5.0)
    assert eta.remaining == pytest.approx(5 * 1.0 + 10 * 2.0)


def test_an_unmeasured_kind_is_judged_by_its_weight_in_a_forecast_alone() -> None:
    eta = Eta([Workload(kind="a", num_items=10, weight=1), Workload(kind="b", num_items=4, weight=3)])
    eta.advance(0, 10, 20.0)
    low, high = eta.range_of([1]) or (0, 0)
    assert low < 4 * 3 * 2.0 < high and eta.remaining is None


def test_items_that_were_there_already_do_not_count_as_fast() -> None:
    eta = Eta([Workload(kind="a", num_items=10, weight=1)])
    eta.skip(0, 6)
    eta.advance(0, 2, 8.0)
    assert eta.remaining == pytest.approx(2 * 4.0)


def test_done_means_zero_even_if_all_was_skipped() -> None:
    eta = Eta([Workload(kind="a", num_items=3, weight=1)])
    eta.skip(0, 3)
    assert eta.remaining == 0


def test_what_cannot_be_guessed_counts_once_one_of_its_kind_was_measured() -> None:
    eta = Eta(
        [
            Workload(kind="a", num_items=10, weight=1),
            Workload(kind="heal", num_items=1, weight=0),
            Workload(kind="heal", num_items=1, weight=0),
        ]
    )
    eta.advance(0, 5, 10.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(10.0), 2)
    eta.advance(1, 1, 60.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(70.0), 0)
    assert eta.remaining_of([2]) == pytest.approx(60.0)


def test_earlier_runs_tell_the_speed_of_kinds_that_are_here() -> None:
    eta = Eta([Workload(kind="a", num_items=10, weight=1), Workload(kind="b", num_items=2, weight=4)])
    eta.learn("elsewhere", 5, 50.0)
    assert eta.remaining is None
    eta.learn("a", 5, 10.0)
    assert eta.remaining_of([0]) == pytest.approx(10 * 2.0)


def test_the_range_is_wide_where_few_items_were_timed_and_holds_what_was_seen() -> None:
    """A study of two hours was forecast at 32 by 24 items that were timed while the machine was busy."""
    cells = [Workload(kind="a", num_items=1000, weight=1), Workload(kind="b", num_items=10, weight=1)]
    few, many, two = Eta(cells), Eta(cells[:1]), Eta(cells[:1])
    assert few.range_of([0]) is None
    few.learn("a", 24, 24 * 115.0)
    low, high = few.range_of([0]) or (0, 0)
    assert low < 7200 < 115_000 < high
    assert few.timed([0, 1]) == {"a": 24, "b": 0}
    many.learn("a", 500, 500 * 7.0)
    low, high = many.range_of([0]) or (0, 0)
    assert low == pytest.approx(3500) and high == pytest.approx(10_500)
    two.learn("a", 2000, 2000 * 1.0)
    two.learn("a", 2000, 2000 * 9.0)
    assert two.range_of([0]) == (pytest.approx(1000), pytest.approx(9000)), "as fast and as slow as it was"
    low, high = few.range_of([1]) or (0, 0)
    assert low * 50 < high, "judged by its weight alone"


def test_the_first_answers_of_a_large_batch_do_not_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 answers are written side by side: 2 have ended after a minute, and the others need 30 seconds at most."""
    monkeypatch.setattr("layercut.progress.cost.time.monotonic", lambda: 0.0)
    eta = Eta([Workload(kind="a", num_items=100, weight=1), Workload(kind="a", num_items=10, weight=1)])
    eta.advance(0, 2, 60.0)
    assert eta.remaining is None, "two answers are too few"
    eta.begin(0)
    eta.bound(lambda begun: 30.0)
    assert eta.remaining == pytest.approx(30 + 10 * 30 / 98)
    eta.bound(lambda begun: None)
    assert eta.remaining is None
    eta.bound(lambda begun: 98 * 40.0)
    assert eta.remaining == pytest.approx((98 + 10) * 30), "a bound above the measured speed changes nothing"
    eta.advance(0, 98, 1.0)
    eta.bound(lambda begun: 5.0)
    assert eta.remaining == pytest.approx(10 * 61 / 100)


def test_the_time_left_falls_while_an_item_is_worked_on_by_its_own_time_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("layercut.progress.cost.time.monotonic", lambda: now[0])
    eta = Eta([Workload(kind="a", num_items=3, weight=1), Workload(kind="a", num_items=2, weight=1)])
    eta.begin(0)
    now[0] = 60.0
    eta.advance(0, 1, 60.0)
    now[0] = 80.0
    assert (eta.remaining, eta.remaining_of([0]), eta.remaining_of([1])) == (220, 100, 120)
    now[0] = 400.0
    assert eta.remaining == 180, "it takes longer than the last one; the others are still left"
    now[0] = 560.0
    assert eta.remaining is None, "it takes longer than all others would: nothing is known any more"
    eta.advance(0, 2, 500.0)
    assert eta.remaining == pytest.approx(2 * 560 / 3), "its items are done"
