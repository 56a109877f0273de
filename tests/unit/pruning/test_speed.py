"""Seconds by what stays of a model: the parts are found from a few timed plans."""

from __future__ import annotations

import pytest

from layercut.pruning.speed import TimeParts


def test_the_parts_of_a_time_are_found_again_and_none_is_negative() -> None:
    true, stay = TimeParts(fixed=2.0, layer=0.3, channels=0.5), [(6, 1.0), (6, 0.5), (3, 1.0), (3, 0.5)]
    seconds = [true.seconds(*plan) for plan in stay]
    assert seconds == pytest.approx([6.8, 5.3, 4.4, 3.65])
    assert TimeParts.fitted(stay, seconds).model_dump() == pytest.approx(true.model_dump())
    slower = [5.0, 6.0, 5.0, 6.0]  # thinner MLPs took longer
    assert TimeParts.fitted(stay, slower).model_dump() == pytest.approx({"fixed": 5.5, "layer": 0, "channels": 0})
