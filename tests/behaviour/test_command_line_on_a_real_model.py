"""The command line on SmolLM2-135M-Instruct, as processes that are killed and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model

MODEL = "bundled:smollm2-135m"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _bundled() -> None:
    try:
        bundled_file(bundled_model(MODEL))
    except InputError as error:
        pytest.skip(str(error))


def layercut(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "layercut", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def killed_after(seconds: float, *arguments: object, folder: Path) -> bool:
    """Start a command, kill -9 it; whether it was still running."""
    command = [sys.executable, "-m", "layercut", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


def test_a_cut_model_generates_in_plain_transformers_in_another_process(tmp_path: Path) -> None:
    ran = layercut("cut", MODEL, "--remove", "15,20,25", "--out", "cut", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "by at most 0 " in ran.stdout
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = AutoModelForCausalLM.from_pretrained('cut'), AutoTokenizer.from_pretrained('cut')\n"
        "inputs = tokenizer('The capital of France is', return_tensors='pt')\n"
        "out = model.generate(**inputs, max_new_tokens=8, do_sample=False)\n"
        "assert not any(name.startswith('layercut') for name in sys.modules)\n"
        "print(model.config.num_hidden_layers, repr(tokenizer.decode(out[0, inputs.input_ids.shape[1]:])))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    depth, text = said.strip().split(" ", 1)
    assert depth == "27"
    assert len(text) > 4


def results(folder: Path) -> dict[str, object]:
    """Answers of a study by file and item, and its metrics."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(folder))] = sorted(records, key=lambda record: record["id"])
    for path in sorted(folder.rglob("metrics.json")):
        found[str(path.relative_to(folder))] = json.loads(path.read_text())
    return found


def test_a_study_that_is_killed_ends_as_one_that_ran_through(tmp_path: Path) -> None:
    study = {
        "model": MODEL,
        "out": "unused",
        "plans": ["reverse:3"],
        "tasks": [{"task": "arithmetic", "limit": 24}, {"task": "copy", "limit": 24, "readouts": ["short"]}],
        "batch_size": 8,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    whole = layercut("run", "study.yaml", "--out", "whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    draw = random.Random(0)
    command = ("run", "study.yaml", "--out", "killed")
    killed = [killed_after(draw.uniform(4, 20), *command, folder=tmp_path) for _ in range(3)]
    assert any(killed), "every attempt ended before it was killed; nothing was tested"
    again = layercut(*command, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_a_search_that_is_killed_finds_the_same_plan(tmp_path: Path) -> None:
    command = ("select", MODEL, "--criterion", "task_accuracy", "--objective", "arithmetic,brackets,copy")
    command = (*command, "--remove", "2 layers", "--limit", 12, "--protect", "first:12,last:12", "--out")
    whole = layercut(*command, "whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    draw = random.Random(1)
    killed = [killed_after(draw.uniform(6, 25), *command, "killed", folder=tmp_path) for _ in range(3)]
    assert any(killed), "every attempt ended before it was killed; nothing was tested"
    again = layercut(*command, "killed", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "killed" / "plan.json").read_text() == (tmp_path / "whole" / "plan.json").read_text()
