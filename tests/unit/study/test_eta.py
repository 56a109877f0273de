from __future__ import annotations

import pytest

from layercut.study.eta import Cell, Eta


def test_nothing_is_promised_before_anything_was_measured() -> None:
    assert Eta([Cell(kind="a", num_items=10, weight=1)]).remaining is None


def test_a_measured_kind_is_judged_by_its_own_speed() -> None:
    eta = Eta(
        [
            Cell(kind="a", num_items=10, weight=1),
            Cell(kind="b", num_items=10, weight=50),
            Cell(kind="a", num_items=10, weight=1),
        ]
    )
    eta.advance(0, 10, 20.0)
    eta.advance(1, 5, 5.0)
    assert eta.remaining == pytest.approx(5 * 1.0 + 10 * 2.0)


def test_an_unmeasured_kind_is_judged_by_its_weight() -> None:
    eta = Eta([Cell(kind="a", num_items=10, weight=1), Cell(kind="b", num_items=4, weight=3)])
    eta.advance(0, 10, 20.0)
    assert eta.remaining == pytest.approx(4 * 3 * 2.0)


def test_items_that_were_there_already_do_not_count_as_fast() -> None:
    eta = Eta([Cell(kind="a", num_items=10, weight=1)])
    eta.skip(0, 6)
    eta.advance(0, 2, 8.0)
    assert eta.remaining == pytest.approx(2 * 4.0)


def test_done_means_zero_even_if_all_was_skipped() -> None:
    eta = Eta([Cell(kind="a", num_items=3, weight=1)])
    eta.skip(0, 3)
    assert eta.remaining == 0


def test_what_cannot_be_guessed_counts_once_one_of_its_kind_was_measured() -> None:
    eta = Eta(
        [
            Cell(kind="a", num_items=10, weight=1),
            Cell(kind="heal", num_items=1, weight=0),
            Cell(kind="heal", num_items=1, weight=0),
        ]
    )
    eta.advance(0, 5, 10.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(10.0), 2)
    eta.advance(1, 1, 60.0)
    assert (eta.remaining, eta.unknown) == (pytest.approx(70.0), 0)
    assert eta.remaining_of([2]) == pytest.approx(60.0)


def test_earlier_runs_tell_the_speed_of_kinds_that_are_here() -> None:
    eta = Eta([Cell(kind="a", num_items=10, weight=1), Cell(kind="b", num_items=2, weight=4)])
    eta.learn("elsewhere", 5, 50.0)
    assert eta.remaining is None
    eta.learn("a", 5, 10.0)
    assert eta.remaining == pytest.approx(10 * 2.0 + 2 * 4 * 2.0)
