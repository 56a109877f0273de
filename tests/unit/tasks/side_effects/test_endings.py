from __future__ import annotations

from layercut.tasks.side_effects.endings import endings
from tests.unit.tasks.side_effects import graded


def test_an_answer_that_is_stopped_by_its_length_fails() -> None:
    task = endings()
    sample = task.samples("report", 1)[0]
    assert graded(task, sample, "It is a force.").metrics == {"accuracy": 1.0}
    cut = graded(task, sample, "It is a force, a force, a force,", "length")
    assert (cut.metrics, cut.outcome) == ({"accuracy": 0.0}, "cut")
