from __future__ import annotations

import pytest

from layercut.report.table import plain_cell
from layercut.report.words import finding_cell, kept_words, score_units, task_cell
from layercut.runs.prune import Estimated, TaskKept


def kept(value: float | None) -> TaskKept:
    score = Estimated(value=0.5, low=0.4, high=0.6, n=64)
    share = None if value is None else Estimated(value=value, low=0.8, high=1.0, n=64)
    return TaskKept(task="sums", readout="short", uncut=score, cut=score, kept=share)


def test_cells_say_the_task_the_share_and_the_verdict() -> None:
    assert plain_cell(task_cell("sums", "short")) == "sums short answer"
    assert (kept_words(kept(0.9).kept), kept_words(kept(None).kept)) == ("90 [80, 100] %", "n/a")
    looks = {name: finding_cell(name).style for name in ("passed", "shown to fail", "undecided")}
    assert looks == {"passed": "right", "shown to fail": "wrong", "undecided": "plain"}


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([True, True], "Scores in %"),
        ([False], "Scores in the metric's own unit"),
        ([False, True], "Scores in %, and in the metric's own unit"),
    ],
)
def test_percent_is_said_of_shares_alone(shares: list[bool], says: str) -> None:
    assert score_units(shares) == says
