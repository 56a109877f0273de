"""The notebook examples/tutorial.ipynb runs from its first cell to its last, and its kept outputs are of that code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"


def text_of(cell: dict[str, object]) -> str:
    """What a code cell printed on stdout."""
    outputs = cell["outputs"]
    assert isinstance(outputs, list)
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="runs the notebook: pip install 'layercut[docs]'")
    pytest.importorskip("ipykernel", reason="runs the notebook: pip install 'layercut[docs]'")
    import nbformat

    try:
        bundled_file(bundled_model("bundled:smollm2-135m"))
    except InputError as error:
        pytest.skip(str(error))
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


def test_outputs_are_kept_and_none_is_an_error() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert all(text_of(cell) for cell in cells[1:])
    assert NOTEBOOK.stat().st_size < 100_000
