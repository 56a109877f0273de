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
