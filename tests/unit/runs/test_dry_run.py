from __future__ import annotations

import json
from pathlib import Path

from layercut.runs.dry_run import Outline, PlannedStep

STEPS = (PlannedStep("answers", 64), PlannedStep("training", 1, "step"))


def test_items_checkpoints_and_bytes_are_said(tmp_path: Path) -> None:
    sizes = {"disk_bytes": 4_000_000, "stays_bytes": 1_000_000, "memory_bytes": 800_000_000, "checkpoints": 2}
    parts = {"weights": 700_000_000, "teacher": 0}
    outline = Outline(steps=STEPS, **sizes, memory_parts=parts, folder=tmp_path / "not" / "yet", more=("first of all",))
    text = "\n".join(outline.lines())
    assert text.startswith("first of all\nanswers: 64 items\ntraining: 1 step\n")
    assert "up to 4.00 MB with 2 checkpoints, of which 1.00 MB stays" in text and "too little" not in text
    assert "memory: about 800 MB" in text and "of that memory: weights 700 MB\n" in text
    assert "would write to " in text and text.endswith("nothing was written") and not (tmp_path / "not").exists()
    data = json.loads(json.dumps(outline.to_dict(), allow_nan=False))
    assert data["steps"][1] == {"name": "training", "items": 1, "unit": "step"} and data["checkpoints"] == 2
    assert data["free_bytes"] > 0 and data["stays_bytes"] == 1_000_000


def test_a_disk_that_is_too_small_is_said_and_without_a_folder_none(tmp_path: Path) -> None:
    outline = Outline(steps=STEPS, disk_bytes=10**18, memory_bytes=0, folder=tmp_path)
    assert any("too little" in line for line in outline.lines()) and outline.to_dict()["stays_bytes"] == 10**18
    text = "\n".join(Outline(steps=(), disk_bytes=0, memory_bytes=0, folder=None).lines())
    assert "disk" not in text and "would write" not in text
