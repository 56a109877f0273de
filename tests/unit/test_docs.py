"""Docs that are made from the code, or speak of it, say what is true."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from layercut.selection import CRITERIA
from layercut.tasks import known_tasks
from tests.unit.test_architecture import MAY_USE

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert _spec is not None and _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


def test_what_is_generated_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == generate.command_reference()
    page = generate.ARCHITECTURE.read_text(encoding="utf-8")
    assert page == generate.architecture(page), "run `python docs/generate.py`"


def test_the_tree_shows_every_file_and_the_picture_every_package() -> None:
    page = generate.ARCHITECTURE.read_text(encoding="utf-8")
    assert set(generate.ORDER) == set(MAY_USE)
    files = [path for path in generate.SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert page.partition("<!-- tree")[2].count(".py`: ") == len(files)
    arrows = set(re.findall(r"^    (\w+) --> (\w+)$", page, re.MULTILINE))
    assert arrows <= {(name, used) for name, uses in MAY_USE.items() for used in uses}


def test_every_criterion_has_a_row_among_the_papers() -> None:
    index = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    modules = [row.function.partition(":")[0] for row in CRITERIA.values()]
    files = [module.removeprefix("layercut.").replace(".", "/") + ".py" for module in modules]
    assert [file for file in files if f"`{file}`" not in index] == []


def test_every_criterion_and_task_is_in_the_docs() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/explanation/paper_index.md"))
    assert [name for name in (*CRITERIA, *known_tasks()) if name not in text] == []
