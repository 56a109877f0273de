"""What of Python itself cannot be named as a criterion or task."""

from __future__ import annotations

import os
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.runs import foreign_code
from layercut.selection import find_criterion
from layercut.tasks import load_task


@pytest.mark.parametrize("name", ["os:system", "shutil:rmtree", "subprocess:run", "builtins:exec", "os.path:exists"])
def test_a_function_of_python_is_neither_imported_nor_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(os, "system", called)
    monkeypatch.setattr(foreign_code, "import_module", called)
    for load in (find_criterion, load_task):
        with pytest.raises(InputError, match=f"{name} .*no (criterion|task)"):
            load(name)
