"""The steps of the installation's page, the tutorial and the notebook work on the bundled model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, commands, lay_out, smaller, use_block

pytestmark = pytest.mark.slow
PAGE, NOTEBOOK = ROOT / "docs" / "start" / "tutorial.md", ROOT / "examples" / "tutorial.ipynb"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def stdout_of(words: list[str], folder: Path) -> str:
    command, env = [sys.executable, "-m", "layercut", *words], {**os.environ, "COLUMNS": "88"}
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, (words, ran.stderr)
    return ran.stdout


def test_the_steps_work_in_order(bundled, tmp_path):
    lay_out(tmp_path)
    for said in use_block():
        stdout_of(smaller(said.words, 4), tmp_path)


def shape(line: str) -> str:
    """A line without its widths and digits: another processor may round another way, but no finding may change."""
    return re.sub(r"\d+", "0", " ".join(line.split()))


def test_the_tutorial_prints_what_the_page_shows(bundled, tmp_path):
    printed: list[str] = []
    shown = 0
    for kind, block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "bash":
            for said in commands(block, PAGE.name):
                printed += [shape(line) for line in stdout_of(said.words, tmp_path).splitlines()]
        elif kind == "text":
            shown += 1
            assert [line for line in block.splitlines() if shape(line) not in printed] == []
    assert shown == 7


def text_of(cell: dict[str, object]) -> str:
    """What a code cell printed on stdout."""
    outputs = cell["outputs"]
    assert isinstance(outputs, list)
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")


def test_the_tutorial_runs(bundled, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="runs the notebook: pip install 'layercut[docs]'")
    pytest.importorskip("ipykernel", reason="runs the notebook: pip install 'layercut[docs]'")
    import nbformat

    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    ran = client.execute()  # raises with the cell and its traceback
    said = [text_of(cell) for cell in ran.cells if cell.cell_type == "code"]
    assert "removes 3 of 30 decoder layers" in said[1]
    assert said[2].count("The capital of France is") == 2
    assert [line.split(":")[0].split() for line in said[3].splitlines()] == [["cut", "rank"], ["cut", "short"]]
    assert said[4].startswith("27 layers in")
    assert said[5].strip()
    assert [line.split(":")[0].split() for line in said[6].splitlines()] == [["healed", "rank"], ["healed", "short"]]
    assert "report:" in said[7] and (tmp_path / "runs" / "tutorial" / "broken" / "diagnose.md").is_file()


def test_outputs_are_kept_and_none_is_an_error():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert all(text_of(cell) for cell in cells[1:])
    assert NOTEBOOK.stat().st_size < 100_000
