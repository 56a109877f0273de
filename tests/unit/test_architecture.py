"""Package arrows, read from the imports: which package may use which, and which stay free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "layercut"

MAY_USE = {
    # Below all others; these may use one another in this order alone.
    "errors": set(),
    "seed": {"errors"},
    "text": {"errors"},
    "runs": {"errors", "seed", "text"},
    "progress": {"errors", "text", "runs"},
    "base_settings": {"errors", "seed"},
    "engines": set(),
    "known_tasks": set(),
    "settings": {"errors", "seed", "engines", "base_settings"},
    "sandbox": {"errors", "text"},
    # May use all of BASE, and what is listed.
    "models": {"settings"},
    "evidence": {"surgery"},
    "surgery": {"models", "settings"},
    "engine": {"surgery", "models", "settings"},
    "tasks": {"engine", "sandbox", "evidence", "surgery", "settings"},
    "report": {"evidence", "surgery"},
    "selection": {"tasks", "engine", "evidence", "surgery", "models", "settings"},
    "diagnostics": {"selection", "tasks", "engine", "sandbox", "evidence", "surgery", "models", "settings"},
    "healing": {"selection", "tasks", "engine", "evidence", "surgery", "models", "settings"},
    "study": {"healing", "diagnostics", "selection", "tasks", "engine", "evidence", "surgery", "models", "settings"},
    "pruning": {
        "study", "healing", "diagnostics", "selection", "tasks", "engine", "evidence", "surgery", "models",
        "settings",
    },
    "drafting": {"pruning", "selection", "tasks", "engine", "evidence", "surgery", "models", "settings"},
    "quantising": {"selection", "tasks", "engine", "evidence", "surgery", "models", "settings"},
    "tools": {"selection", "surgery", "models"},
    "verbs": {
        "drafting", "quantising", "pruning", "study", "healing", "diagnostics", "selection", "report", "tasks",
        "engine", "sandbox", "evidence", "surgery", "models", "settings",
    },
    "api": {"verbs", "selection", "tasks", "engine", "surgery", "models", "settings"},
    "cli": {"verbs", "selection", "tasks", "sandbox"},
}  # fmt: skip
BASE = {"errors", "seed", "text", "runs", "progress", "base_settings", "engines", "known_tasks"}
ONLY_IN = {
    "lm_eval": {"tasks/lm_eval", "tools/lm_eval.py"},  # lm-eval's tasks here, and layercut's model there
    "vllm": {"engine/vllm.py"},
    "openai": {"engine/openai.py"},
    "ray": {"engine/ray_pool.py"},
    "trl": {"healing/sft.py", "healing/grpo.py"},
    "peft": {"healing/trainable.py", "models/sources.py"},
    "typer": {"cli"},
    "vl_convert": {"report/charts.py"},
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full dotted names imported anywhere in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_dependencies_run_one_way(path):
    here = room(path)
    if here.startswith("__"):  # the face of the package, and of its command
        return
    assert here in MAY_USE, f"the room {here!r} has no place in the house; add it to MAY_USE"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "layercut" and len(parts) > 1:
            there = parts[1] if (SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").exists() else "__init__"
            allowed = MAY_USE[here] | {here, "__init__"} | (set() if here in {*BASE, "settings", "sandbox"} else BASE)
            assert there in allowed, f"{path.relative_to(SOURCE)} imports {name}: {here} may use {sorted(allowed)}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_optional_parts_stay_behind_their_adapters(path):
    where = path.relative_to(SOURCE)
    for name in imported(path):
        package = name.split(".")[0]
        if package in ONLY_IN:
            places = {str(place) for place in (where, *where.parents)}
            assert places & ONLY_IN[package], f"{where} imports {package}"


def test_no_two_modules_import_each_other_even_through_others():
    names = {".".join(("layercut", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in modules()}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    uses = {
        name: {
            used if used in names else used.rpartition(".")[0]
            for used in imported(path)
            if used in names or used.rpartition(".")[0] in names
        }
        - {name}
        for name, path in names.items()
    }
    while leaves := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in leaves:
            del uses[name]
    assert not uses, f"import circles among {sorted(uses)}"


def test_every_package_is_checked_and_no_public_class_name_stands_in_two():
    places: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, set()).add(room(path))
    assert {name: rooms for name, rooms in places.items() if len(rooms) > 1} == {}
    assert {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"} <= set(MAY_USE)


@pytest.mark.parametrize(
    "statement",
    [
        "import layercut",
        "import layercut.cli.main",
        "import layercut.runs.directory, layercut.runs.records, layercut.runs.environment",
        "import layercut.evidence.intervals, layercut.evidence.paired",
        "import layercut.evidence.comparison, layercut.report.writers, layercut.report.runs",
        "import layercut.report.retention, layercut.report.diagnosis",
        "import layercut.report.diagnosis, layercut.diagnostics",
        "import layercut.report.reports, layercut.report.comparison",
        "import layercut.surgery.plan, layercut.surgery.config_fields, layercut.tasks.base, layercut.selection",
    ],
)
def test_light_modules_import_neither_torch_nor_transformers(statement):
    code = f"import sys; {statement}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
