from __future__ import annotations

import pytest

from layercut.tasks.side_effects.language import _REQUESTS, language_of, same_language
from tests.unit.tasks.side_effects import passes


@pytest.mark.parametrize("language", list(_REQUESTS))
def test_every_request_is_in_its_own_language(language: str) -> None:
    assert [language_of(request) for request in _REQUESTS[language]] == [language] * 4


def test_an_answer_in_english_fails() -> None:
    task = same_language()
    assert passes(task, "Himmel", "Der Himmel ist blau, weil die Luft das Licht streut.")
    assert not passes(task, "Himmel", "The sky is blue because the air scatters the light.")
    assert passes(task, "天空", "因为空气散射阳光中的蓝光。")
    assert not passes(task, "天空", "空が青いのは、空気が光を散乱させるからです。")
