from __future__ import annotations

import re
from itertools import pairwise

import pytest

from layercut.tasks.side_effects.needle import needle_2k, needle_8k
from tests.unit.tasks.side_effects import graded


@pytest.mark.parametrize(("task", "words"), [(needle_2k(), 1300), (needle_8k(), 5200)])
def test_each_text_holds_its_code_once_and_places_go_from_the_beginning_to_the_end(task: object, words: int) -> None:
    samples = task.samples("report", None)  # type: ignore[attr-defined]
    places = sorted(sample.question.index(sample.gold) / len(sample.question) for sample in samples)
    assert places[0] < 0.02 and places[-1] > 0.95
    assert max(b - a for a, b in pairwise(places)) < 0.06
    for sample in samples:
        assert len(re.findall(r"\d{6}", sample.question)) == 1
        assert words < len(sample.question.split()) < words + 60


def test_the_code_counts_however_it_is_written() -> None:
    task = needle_2k()
    sample = task.samples("report", 1)[0]
    code = sample.gold
    for text, right in ((code, 1), (f"It is {code[:3]},{code[3:]}.", 1), (f"{code[:3]} {code[3:]}", 1), (code[1:], 0)):
        assert graded(task, sample, text).metrics["accuracy"] == right
