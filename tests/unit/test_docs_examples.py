"""The modules that how-to guides tell people to write do, on a tiny model, what the guide's commands ask of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import MODEL, PAGES, ROOT, blocks, commands
from tests.support.tiny import save_tiny
from tests.unit.cli.conftest import Run, layercut  # noqa: F401 - the fixture

_FILE = re.compile(r"# (my_\w+)\.py\n")
GUIDES = {
    page: [block for block in blocks(page) if _FILE.match(block)]
    for page in PAGES
    if page.is_relative_to(ROOT / "docs" / "how_to")
}
MODULES = [(page, block) for page, found in GUIDES.items() for block in found]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that modules are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def test_there_are_such_guides() -> None:
    assert {page.name for page, _ in MODULES} >= {"own_criterion.md", "own_task.md"}


@pytest.mark.parametrize(("page", "block"), MODULES, ids=lambda one: one.name if isinstance(one, Path) else "")
def test_the_module_of_a_guide_works_in_its_commands(
    page: Path,
    block: str,
    here: Path,
    layercut: Run,  # noqa: F811 - the fixture
) -> None:
    found = _FILE.match(block)
    assert found is not None
    (here / f"{found[1]}.py").write_text(block, encoding="utf-8")
    tiny = str(save_tiny("llama", here / "tiny"))
    using = [
        said for text in blocks(page) for said in commands(text, page.name) if f"{found[1]}:" in " ".join(said.words)
    ]
    assert using
    for said in using:
        ran = layercut(*(tiny if word == MODEL else word for word in said.words), "--device", "cpu")
        assert ran.code == 0, (said.words, ran.err)
