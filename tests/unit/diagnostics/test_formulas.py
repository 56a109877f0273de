from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "diagnostics.arithmetic",
    "evidence.degeneration",
    "evidence.program_classes",
    "diagnostics.traces",
    "evidence.intervals",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docs_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"layercut.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
