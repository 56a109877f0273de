"""kill -9 at random moments of a search on a real, if tiny, model; the same command again ends with the same plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.support.search_process import uncut_answers
from tests.support.tiny import save_tiny

ROOT = Path(__file__).parents[2]
PROMPTS = [f"{word} {number}" for word in ("the cat", "a plan", "x =", "so", "why") for number in range(8)]


def start(model: Path, run: Path, golds: Path) -> subprocess.Popen[bytes]:
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.search_process", str(model), str(run), str(golds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def lines(run: Path) -> list[str]:
    file = run / "samples" / "agreement.short.jsonl"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_plan(tmp_path: Path) -> None:
    model, golds = save_tiny("llama", tmp_path / "model"), tmp_path / "golds.json"
    golds.write_text(json.dumps(uncut_answers(model, PROMPTS)), encoding="utf-8")
    assert start(model, tmp_path / "whole", golds).wait() == 0
    whole = lines(tmp_path / "whole")
    plan = (tmp_path / "whole" / "plan.json").read_bytes()
    values = [value for found in json.loads(plan)["scores"]["rounds"] for value in found["values"]]
    assert len(set(values)) > 3  # else any plan would do

    run = tmp_path / "killed"
    rng = Random(7)
    for moment in sorted(rng.sample(range(1, len(whole) - 20), 3)):
        process = start(model, run, golds)
        while len(lines(run)) < moment and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.kill()
        assert process.wait() == -9, "the search ended before it was killed"
        assert not (run / "plan.json").exists()
    assert start(model, run, golds).wait() == 0
    assert (run / "plan.json").read_bytes() == plan
    assert Counter(lines(run)) == Counter(whole)
