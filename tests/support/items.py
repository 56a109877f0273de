"""Problems of generated tasks, made once in a test run: a healing checks its training data against all of them."""

from collections.abc import Iterator
from typing import Any

import pytest

from layercut.tasks.base import Sample
from layercut.tasks.few_shot import FewShotTask

_made: dict[Any, tuple[list[Sample], Iterator[Sample]]] = {}


@pytest.fixture(autouse=True)
def problems_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tasks of equal name, version, seed and examples share their samples."""
    make = FewShotTask._all_samples

    def remembered(self: FewShotTask) -> Iterator[Sample]:
        key = (self.name, self.version, self.seed, self.problems, tuple(self.example_questions))
        made, more = _made.setdefault(key, ([], make(self)))
        index = 0
        while True:
            if index == len(made):
                if (one := next(more, None)) is None:
                    return
                made.append(one)
            yield made[index]
            index += 1

    monkeypatch.setattr(FewShotTask, "_all_samples", remembered)
