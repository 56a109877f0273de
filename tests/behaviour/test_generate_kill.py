"""kill -9 while answers are generated, as a process of its own; the same command again ends with the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.tiny import save_tiny

ROOT = Path(__file__).parents[2]


def generate(model: Path, prompts: Path, out: Path) -> subprocess.Popen[bytes]:
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "layercut", "generate", model, "--prompts", prompts, "--out", out]
    command += ["--temperature", "0.9", "--max-new-tokens", "24", "--batch-size", "4", "--seed", "5"]
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True) if file.is_file() else []


@pytest.mark.slow
def test_killed_while_it_answers_it_ends_with_the_same_files(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question\n" + "\n".join(f"say {number}" for number in range(60)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert generate(model, prompts, whole).wait() == 0
    before: list[str] = []
    for count in (1, 20, 45):
        process = generate(model, prompts, killed)
        while len(lines(killed / "samples" / "responses.jsonl")) < count and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -9, f"all was done before {count} were seen"
        now = lines(killed / "samples" / "responses.jsonl")
        assert now[: len(before)] == before, "an answer that was there has changed"
        before = [line for line in now if line.endswith("\n")]
        assert not (killed / "metrics.json").exists()
    assert generate(model, prompts, killed).wait() == 0
    found, wanted = (sorted(lines(folder / "samples" / "responses.jsonl")) for folder in (killed, whole))
    assert found == wanted
    records = [json.loads(line) for line in found]
    assert len({record["id"] for record in records}) == len(records) == 60
    assert {record["seed"] for record in records} == {5}
