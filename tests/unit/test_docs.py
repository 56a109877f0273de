"""Docs that are made from the code, or speak of it, say what is true."""

from __future__ import annotations

from pathlib import Path

from layercut.cli.reference import reference
from layercut.selection import CRITERIA
from layercut.tasks import known_tasks

ROOT = Path(__file__).parents[2]


def test_the_command_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference() + "\n"


def test_the_readme_shows_every_file_of_the_house() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "layercut"
    files = sorted(path for path in source.rglob("*.py") if path.name != "__init__.py")
    missing = [str(path.relative_to(source)) for path in files if path.name not in readme]
    assert not missing


def test_every_criterion_has_a_row_among_the_papers() -> None:
    index = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    modules = [row.function.partition(":")[0] for row in CRITERIA.values()]
    files = [module.removeprefix("layercut.").replace(".", "/") + ".py" for module in modules]
    assert [file for file in files if f"`{file}`" not in index] == []


def test_every_criterion_and_task_is_in_the_docs() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/paper_index.md"))
    assert [name for name in (*CRITERIA, *known_tasks()) if name not in text] == []
