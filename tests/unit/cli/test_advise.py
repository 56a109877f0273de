"""``layercut advise`` on a study that was built from chosen scores."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from layercut.evidence.advice import advise
from layercut.report.advice_text import advice_on_terminal
from tests.support.run_builder import build_quickstart
from tests.unit.cli.conftest import Run


def test_advise_prints_the_page(layercut: Run, tmp_path: Path) -> None:
    build_quickstart(tmp_path / "study")
    ran = layercut("advise", tmp_path / "study", "--use", "math")
    assert ran.code == 0, ran.err
    assert "random-3 keeps 84 % [65, 104]" in ran.words
    assert "shown to fail" in ran.words
    data = json.loads(layercut("advise", tmp_path / "study", "--use", "copy", "--keep", "0.5", "--json").out)
    assert (data["answer"], data["recommended"], data["evidence"]) == ("cut", "random-3", "generation")
    assert (data["use"], data["keep"]) == ("copy", 0.5)


def test_the_table_shows_whole_names_of_plans(tmp_path: Path) -> None:
    """Cut short, a healed and an unhealed plan looked the same."""
    build_quickstart(tmp_path / "study")
    found = advise(tmp_path / "study")
    name = "task_accuracy-refined-12-from-block_influence-12"
    first, *rest = (plan for plan in found.plans if plan.tasks)
    plans = [replace(first, arm=replace(first.arm, name=one)) for one in (name, f"{name}+sft-lora-r8")]
    console = Console(file=StringIO(), width=120, color_system=None)
    console.print(advice_on_terminal(replace(found, plans=(*plans, *rest))))
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    table = "\n".join(lines[next(i for i, line in enumerate(lines) if "at least" in line and "verdict" in line) :])
    assert max(map(len, lines)) <= 120 and "…" not in table
    assert {name, f"{name}+sft-lora-r8"} <= {*table.split()}


def test_what_is_no_study_is_one_line(layercut: Run, tmp_path: Path) -> None:
    ran = layercut("advise", tmp_path)
    assert ran.code == 1
    assert "not the folder" in ran.err
    assert "Traceback" not in ran.err
