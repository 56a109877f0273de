"""A heading names the unit of the scores below it."""

from __future__ import annotations

import pytest

from layercut.report.words import scores_in


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([True, True], "Scores in %"),
        ([False], "Scores in nats a token (gold) or the metric's own unit"),
        ([False, True], "Scores in %, and in nats a token (gold) or the metric's own unit"),
    ],
)
def test_percent_is_said_of_shares_alone(shares: list[bool], says: str) -> None:
    assert scores_in(shares) == says
