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
    command = [sys.executable, "-m", "layercut.cli.main", "generate", model, "--prompts", prompts, "--out", out]
    command += ["--samples", "3", "--temperature", "0.9", "--max-new-tokens", "24", "--batch-size", "4", "--seed", "5"]
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True) if file.is_file() else []


@pytest.mark.slow
def test_killed_while_it_answers_and_while_it_chooses_it_ends_with_the_same_files(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("question\n" + "\n".join(f"say {number}" for number in range(60)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert generate(model, prompts, whole).wait() == 0
    before: list[str] = []
    kills = (("responses", 1), ("responses", 60), ("responses", 130), ("choices", 1), ("choices", 30))
    for name, count in kills:
        process = generate(model, prompts, killed)
        while len(lines(killed / "samples" / f"{name}.jsonl")) < count and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -9, f"all was done before {count} {name} were seen"
        now = lines(killed / "samples" / "responses.jsonl")
        assert now[: len(before)] == before, "an answer that was there has changed"
        before = [line for line in now if line.endswith("\n")]
        assert not (killed / "metrics.json").exists()
    assert generate(model, prompts, killed).wait() == 0
    for name in ("responses", "choices"):
        found, wanted = (sorted(lines(folder / "samples" / f"{name}.jsonl")) for folder in (killed, whole))
        assert found == wanted
    records = [json.loads(line) for line in lines(killed / "samples" / "responses.jsonl")]
    assert len({record["id"] for record in records}) == len(records) == 180
    assert {(record["seed"], record["sample"]) for record in records} == {(5, 0), (5, 1), (5, 2)}
    texts = {record["prompt_id"]: set() for record in records}
    for record in records:
        texts[record["prompt_id"]].add(record["completion"])
    assert min(map(len, texts.values())) == 3, "samples of a prompt are the same"
