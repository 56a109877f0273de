"""kill -9 while a healing trains, as a process of its own; the same command again ends with the same weights."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.process import started
from tests.support.tiny import save_tiny

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "forward-kl"])
def test_killed_while_it_trains_it_ends_with_the_same_weights(objective: str, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    assert started("cut", model, "--remove", "2,4", "--out", tmp_path / "cut").wait() == 0
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"say {number}" for number in range(40)))

    def heal(name: str) -> subprocess.Popen[bytes]:
        return started(
            *("heal", tmp_path / "cut", "--teacher", model, "--prompts", prompts, "--out", tmp_path / name),
            *("--max-new-tokens", 6, "--keep-unfinished", "--rank", 2, "--max-steps", 60, "--epochs", 20),
            *("--train-batch", 4, "--save-every", 10, "--warmup-steps", 2, "--patience", 0, "--objective", objective),
        )

    assert heal("whole").wait() == 0
    for step in (10, 30):
        process = heal("killed")
        while not (tmp_path / "killed" / "training" / f"checkpoint-{step}").is_dir() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -9, "the healing ended before it was killed"
    assert heal("killed").wait() == 0

    def result(name: str) -> tuple[bytes, list[object], str]:
        folder = tmp_path / name / "checkpoint"
        lines = [json.loads(line) for line in (tmp_path / name / "training" / "loss.jsonl").read_text().splitlines()]
        recorded = json.loads((folder / "plan.json").read_text())["healing"][0]["data_hash"]
        weights = (folder / "model.safetensors").read_bytes()
        return weights, [{k: v for k, v in line.items() if k != "seconds"} for line in lines], recorded

    assert result("killed") == result("whole")
    assert (tmp_path / "killed" / "samples" / "responses.jsonl").read_text().count("\n") == 40
