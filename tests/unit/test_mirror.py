"""Every module of src/layercut is tested at the same place in tests/unit: by a file of its name, or of its package."""

import re
from pathlib import Path

UNIT = Path(__file__).parent
SOURCE = UNIT.parents[1] / "src" / "layercut"
WITHOUT = """
diagnostics/diagnose engine/generating evidence/two_runs report/answers runs/draft runs/healing runs/logs/evalplus
runs/logs/inspect_ai runs/study sandbox/child sandbox/judge seed study/settings tasks/builtin/lines
tasks/lm_eval/subject verbs/cut verbs/quantise verbs/fields verbs/heal verbs/measure verbs/prune verbs/run verbs/select
"""
"""Modules that are tested through their callers. Only ever make it shorter."""


def module_names() -> list[str]:
    files = (file.relative_to(SOURCE) for file in SOURCE.rglob("*.py") if not file.name.startswith("__"))
    return sorted(str(file.with_suffix("")) for file in files)


def is_tested(module: str) -> bool:
    """True if a test file is named after a module, or names it in the tests of its package."""
    path, dotted = Path(module), module.replace("/", ".")
    here, invariants = UNIT / path.parent, UNIT.parent / "invariants"
    known = (here / f"test_{path.name}.py", invariants / f"test_{'_'.join(path.parts)}.py")
    named = re.compile(rf"\blayercut\.({dotted}|{'.'.join(path.parent.parts)} import .*\b{path.name})\b")
    files = (UNIT / path.parts[0]).rglob("test_*.py") if path.parent.parts else UNIT.glob("test_*.py")
    texts = (file.read_text(encoding="utf-8") for file in files)
    return any(file.is_file() for file in known) or any(named.search(text) for text in texts)


def test_every_module_is_tested_at_its_place():
    assert [name for name in module_names() if not is_tested(name) and name not in WITHOUT.split()] == []


def test_the_exceptions_are_modules_that_are_not():
    assert [name for name in WITHOUT.split() if is_tested(name) or name not in module_names()] == []
