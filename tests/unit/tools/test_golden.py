"""The golden record: what counts as equal, and what of a run folder is read."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

FILE = Path(__file__).parents[3] / "tools" / "golden.py"
SPEC = importlib.util.spec_from_file_location("golden", FILE)
assert SPEC is not None and SPEC.loader is not None
golden: Any = importlib.util.module_from_spec(SPEC)
sys.modules["golden"] = golden
SPEC.loader.exec_module(golden)

ROW = {"task": "copy", "readout": "short", "value": 0.5, "n": 8, "verdict": "worse", "seconds": 3.0}


def write_run(
    folder: Path, *, value: float = 0.5, verdict: str = "worse", answer: str = "4", weight: float = 1.0
) -> Path:
    """A run folder with one of each kind of file."""
    (folder / "samples").mkdir(parents=True)
    (folder / "status.json").write_text("[0]")
    (folder / "metrics.json").write_text(json.dumps({"rows": [ROW | {"value": value, "verdict": verdict}]}))
    (folder / "samples" / "copy.jsonl").write_text(
        json.dumps({"id": "a", "answer": answer, "metrics": {"accuracy": 1.0}})
    )
    (folder / "plan.json").write_text(json.dumps({"num_layers": 6, "removed": [1, 3], "kept": [0, 2, 4, 5]}))
    (folder / "loss.jsonl").write_text(json.dumps({"step": 1, "loss": value, "seconds": 2.0}))
    save_file({"w": torch.tensor([1.0, weight])}, folder / "model.safetensors")
    return folder


def differences(tmp_path: Path, **changes: Any) -> list[str]:
    base, folder = write_run(tmp_path / "base"), write_run(tmp_path / "now", **changes)
    found: list[str] = golden.compare_records(
        dict(golden.read_folder(base)), dict(golden.read_folder(folder)), base, folder
    )
    return found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"value": 0.50005, "weight": 1.00005}, []),  # within the tolerance
        ({"value": 0.5002}, ["loss.jsonl step 1 ", "metrics.json task=copy readout=short value"]),
        ({"verdict": "better"}, ["verdict: base 'worse', now 'better'"]),
        ({"answer": "5"}, ["samples/copy.jsonl a without {} answer: base '4', now '5'"]),
        ({"weight": 1.01}, ["model.safetensors w: base", "by up to 0.01 of 1"]),
    ],
)
def test_what_differs_is_named_and_nothing_else(tmp_path: Path, changes: dict[str, Any], says: list[str]) -> None:
    lines = differences(tmp_path, **changes)
    assert bool(lines) == bool(says) and all(any(text in line for line in lines) for text in says)


def test_a_missing_value_differs_and_whole_numbers_and_truth_values_are_equal_or_not() -> None:
    assert golden.compare_records({"a": 1}, {"a": 1, "b": 2}) == []
    assert golden.compare_records({"a": 1, "b": 2}, {"a": 1}) == ["b: base 2, now missing"]
    assert not golden.is_equal(100_000, 100_001) and golden.is_equal(100_000.0, 100_001.0)
    assert not golden.is_equal(True, 1) and not golden.is_equal(None, 0) and golden.is_equal(1, 1.00001)


def test_old_names_become_new_ones_and_what_ended_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "RENAMED", {"--objective": "--tasks", "kept": "retained", "heal-seam": None})
    record = {"rows kept": 1, "rows num_kept": 2, "x/heal-seam/plan.json removed": 3}
    assert golden.rename_record(record) == {"rows retained": 1, "rows num_kept": 2}
    assert golden.rename_command("sweep m --objective copy") == "sweep m --tasks copy"
