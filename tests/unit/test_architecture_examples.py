"""The examples of docs/architecture.md, run as they stand there on a tiny model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layercut.diagnostics import DIAGNOSTICS
from layercut.models.families import FAMILIES
from layercut.report.diagnosis.sections import SECTIONS
from layercut.report.html import page
from tests.support.tiny import save_tiny

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^### ([^\n]*)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")
EXAMPLES = {title: found for title, text in _SECTION.findall(PAGE) if (found := _BLOCK.findall(text))}


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that modules are imported from; what an example registers is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(page, "SECTIONS", page.SECTIONS)
    lists: list[dict[str, object]] = [FAMILIES, DIAGNOSTICS, SECTIONS]  # type: ignore[list-item]
    kept, modules = [dict(one) for one in lists], set(sys.modules)
    yield tmp_path
    for one, before in zip(lists, kept, strict=True):
        one.clear()
        one.update(before)
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def test_there_is_an_example_of_everything_that_can_be_added() -> None:
    kinds = ("criterion", "task", "model family", "healing method", "diagnostic", "report section")
    assert list(EXAMPLES) == [f"A {kind}" for kind in kinds]


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs_as_it_stands_on_the_page(title: str, model: Path, here: Path) -> None:
    for block in EXAMPLES[title]:
        assert max(map(len, block.splitlines())) <= 120
        if name := _FILE.match(block):
            (here / name[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block, title, "exec"), {"MODEL": str(model), "__name__": "example"})
