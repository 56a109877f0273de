from __future__ import annotations

import pytest

from layercut.progress.cost import Eta, Workload


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert Eta([Workload(kind="a", num_items=10)]).remaining is None


def test_a_measured_kind_is_judged_by_its_own_speed() -> None:
    eta = Eta(
        [
            Workload(kind="a", num_items=10),
            Workload(kind="b", num_items=10),
            Workload(kind="a", num_items=10),
        ]
    )
    eta.advance(0, 10, 20.0)
    assert eta.remaining is None, "b was not measured"
    assert eta.remaining_of([2]) == 20.0
    eta.advance(1, 5, 5.0)
    assert eta.remaining == pytest.approx(5 * 1.0 + 10 * 2.0)


def test_items_that_were_there_already_do_not_count_as_fast() -> None:
    eta = Eta([Workload(kind="a", num_items=10)])
    eta.skip(0, 6)
    eta.advance(0, 2, 8.0)
    assert eta.remaining == pytest.approx(2 * 4.0)


def test_done_means_zero_even_if_all_was_skipped() -> None:
    eta = Eta([Workload(kind="a", num_items=3)])
    eta.skip(0, 3)
    assert eta.remaining == 0


def test_what_cannot_be_guessed_counts_once_one_of_its_kind_was_measured() -> None:
    eta = Eta(
        [
            Workload(kind="a", num_items=10),
            Workload(kind="heal", num_items=1, is_item=False),
            Workload(kind="heal", num_items=1, is_item=False),
        ]
    )
    eta.advance(0, 5, 10.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(10.0), 2)
    eta.advance(1, 1, 60.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(70.0), 0)
    assert eta.remaining_of([2]) == pytest.approx(60.0)


def test_earlier_runs_tell_the_speed_of_kinds_that_are_here() -> None:
    eta = Eta([Workload(kind="a", num_items=10), Workload(kind="b", num_items=2)])
    eta.learn("elsewhere", 5, 50.0)
    assert eta.remaining is None
    eta.learn("a", 5, 10.0)
    assert eta.remaining_of([0]) == pytest.approx(10 * 2.0)


def test_the_first_answers_of_a_large_batch_do_not_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 answers are written side by side: 2 have ended after a minute, and the others need 30 seconds at most."""
    monkeypatch.setattr("layercut.progress.cost.time.monotonic", lambda: 0.0)
    eta = Eta([Workload(kind="a", num_items=100), Workload(kind="a", num_items=10)])
    eta.advance(0, 2, 60.0)
    assert eta.remaining is None, "two answers are too few"
    eta.begin(0)
    eta.bound = lambda begun: 30.0
    assert eta.remaining == pytest.approx(30 + 10 * 30 / 98)
    eta.bound = lambda begun: None
    assert eta.remaining is None
    eta.bound = lambda begun: 98 * 40.0
    assert eta.remaining == pytest.approx((98 + 10) * 30), "a bound above the measured speed changes nothing"
    eta.advance(0, 98, 1.0)
    eta.bound = lambda begun: 5.0
    assert eta.remaining == pytest.approx(10 * 61 / 100)


def test_the_time_left_falls_while_an_item_is_worked_on_by_its_own_time_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("layercut.progress.cost.time.monotonic", lambda: now[0])
    eta = Eta([Workload(kind="a", num_items=3), Workload(kind="a", num_items=2)])
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
