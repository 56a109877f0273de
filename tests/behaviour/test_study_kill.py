"""kill -9 anywhere in a study, as a process of its own; the same command again ends with the same results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from layercut.runs.study import failures_in, variants_in_study
from tests.support.process import started
from tests.support.tiny import save_tiny

MOMENTS = (
    "uncut/samples/arithmetic.short.jsonl",  # while the first answers are written
    "searches/block_influence/samples",  # while layers are chosen
    "block_influence-1/notes.jsonl",  # between two cells
    "last/.checkpoint.*",  # while a checkpoint is written
    "last/heal-seam/config.yaml",  # while it is healed
    "last+seam/samples/arithmetic.short.jsonl",
)


def results(folder: Path) -> dict[str, Any]:
    """All that a study found, without times."""
    found: dict[str, Any] = {}
    for arm in variants_in_study(folder):
        run = folder / arm["name"]
        metrics = json.loads((run / "metrics.json").read_text())
        found[arm["name"]] = (metrics["plan"], metrics["rows"])
        for file in (run / "samples").glob("*.jsonl"):
            found[f"{arm['name']}/{file.name}"] = sorted(file.read_text().splitlines())
    for file in folder.glob("**/checkpoint/model.safetensors"):
        found[str(file.relative_to(folder))] = file.read_bytes()
    return found


@pytest.mark.slow
def test_a_study_that_was_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    data = {
        "model": str(save_tiny("llama", tmp_path / "tiny")),
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "out": "unused",
        "plans": {"last": "reverse:2"},
        "criteria": [{"criterion": "block_influence", "calibration": {"num_texts": 8, "max_tokens": 64}}],
        "depths": [1],
        "healing": [
            {"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 40, "responses": "original"}
            | {"plans": ["last"]}
        ],
        "tasks": [{"task": "arithmetic", "limit": 24}],
    }
    study.write_text(yaml.safe_dump(data))
    whole, killed = tmp_path / "one" / "whole", tmp_path / "two" / "killed"
    assert started("run", study, "--out", whole).wait() == 0
    num_killed = 0
    for moment in MOMENTS:
        process = started("run", study, "--out", killed)
        while process.poll() is None and not list(killed.glob(moment)):
            time.sleep(0.002)
        process.kill()
        num_killed += process.wait() == -9
    assert num_killed >= len(MOMENTS) - 1, "a step as quick as writing a tiny checkpoint may be over before it is seen"
    assert started("run", study, "--out", killed).wait() == 0
    assert results(killed) == results(whole) and len(results(whole)) > 12
    assert failures_in(killed) == []
