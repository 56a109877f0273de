"""tests/unit has a file for every module of src/layercut, at the same place."""

from __future__ import annotations

from pathlib import Path

UNIT = Path(__file__).parent
SOURCE = UNIT.parents[1] / "src" / "layercut"
WITHOUT = """
base_settings diagnostics/diagnose engine/base engine/generating engine/rows
engine/stack evidence/diagnosis evidence/sweep evidence/two_runs healing/heal
models/cache models/checks models/gguf_file models/quiet pruning/path
report/advice_text report/charts report/reports report/retention
report/source report/words report/writers runs/draft runs/healing runs/prune runs/settings runs/study sandbox/child
sandbox/filter sandbox/isolation sandbox/judge sandbox/process seed selection/base study/file study/healer
study/settings study/work surgery/remove tasks/base tasks/builtin/lines tasks/cells
tasks/lm_eval/subject tasks/own_rows verbs/cut
verbs/fields verbs/heal verbs/measure verbs/prune verbs/run verbs/select
"""
"""Modules that are tested through their callers. Only ever make it shorter."""


def module_names() -> list[str]:
    files = (file.relative_to(SOURCE) for file in SOURCE.rglob("*.py") if not file.name.startswith("__"))
    return sorted(str(file.with_suffix("")) for file in files)


def is_named(module: str) -> bool:
    """True if a test file is named after a module, here or, with its package, in tests/invariants."""
    path = Path(module)
    here = UNIT / path.parent / f"test_{path.name}.py"
    return here.is_file() or (UNIT.parent / "invariants" / f"test_{'_'.join(path.parts)}.py").is_file()


def test_every_module_has_a_test_of_its_name() -> None:
    assert [name for name in module_names() if not is_named(name) and name not in WITHOUT.split()] == []


def test_the_exceptions_are_modules_that_have_none() -> None:
    assert [name for name in WITHOUT.split() if is_named(name) or name not in module_names()] == []
