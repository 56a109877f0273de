"""kill -9 again and again in a run of prune, as a process of its own; the same command ends with the same result."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import started
from tests.support.pruning import choice_file, spare_model

MOMENTS = (
    "searches/path/samples/mine.jsonl.rank.jsonl",  # the original model's first answers
    "healing/plan-*/seam/config.yaml",  # while a plan is healed
    "healing/plan-*/seam/checkpoint/plan.json",  # healed, and not judged yet
    "uncut/samples/mine.jsonl.rank.jsonl",  # the first report items
    "size-2*/metrics.json",  # between two sizes
    ".model.*",  # while the checkpoint is written
    "model/plan.json",  # written, and not timed yet
)


def results(folder: Path) -> dict[str, Any]:
    """All that was found, without times."""
    data = json.loads((folder / "result.json").read_text())
    found = {name: data[name] for name in ("goal", "tested", "verdict", "chosen", "why", "checkpoint")}
    found["path"] = [(step["removed"], [one["kept"] for one in step["tried"]]) for step in data["path"]]
    for file in sorted(folder.glob("**/samples/*.jsonl")):
        found[str(file.relative_to(folder))] = sorted(file.read_text().splitlines())
    found["weights"] = (folder / "model" / "model.safetensors").read_bytes()
    return found


@pytest.mark.slow
def test_killed_again_and_again_it_ends_like_a_run_that_was_not(tmp_path: Path) -> None:
    model = spare_model(tmp_path / "spare")
    file = choice_file(tmp_path / "mine.jsonl", model)
    goal = ("--keep", 0.6, "--units", "layer", "--smaller", "43%", "--heal", "seam")
    command = ("prune", model, "--tasks", file, "--items", 40, *goal)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(*command, "--device", "cpu", "--out", whole).wait() == 0
    num_killed = 0
    for moment in MOMENTS:
        process = started(*command, "--device", "cpu", "--out", killed)
        while process.poll() is None and not list(killed.glob(moment)):
            time.sleep(0.002)
        process.kill()
        num_killed += process.wait() == -9
        assert not (killed / "result.json").exists() or moment in MOMENTS[-2:]
    assert num_killed >= len(MOMENTS) - 2, "a step as quick as writing a tiny checkpoint may be over before it is seen"
    assert started(*command, "--device", "cpu", "--out", killed).wait() == 0
    assert results(killed) == results(whole)
