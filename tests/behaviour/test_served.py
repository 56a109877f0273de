"""A pruned checkpoint served by vLLM's own command: the same greedy answers as in transformers (some minutes).

Needs the program vllm on the PATH, or its path in LAYERCUT_VLLM: it may live in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from layercut.cli.main import app

pytestmark = pytest.mark.slow
MODEL, NUM_LAYERS = "bundled:smollm2-135m", 27
START_SECONDS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "cut"
    done = CliRunner().invoke(app, ["cut", MODEL, "--remove", "20-22", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == NUM_LAYERS
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    program = os.environ.get("LAYERCUT_VLLM") or shutil.which("vllm")
    if not program:
        pytest.skip("needs vLLM's program (on the PATH, or its path in LAYERCUT_VLLM; docs/how_to/serve.md)")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    asked = ["serve", str(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    asked += ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    output = tmp_path_factory.mktemp("vllm") / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen([program, *asked], stdout=file, stderr=file, env=os.environ | settings)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, output)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(address: str, process: subprocess.Popen[bytes], output: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, output.read_text()[-2000:]
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start within {START_SECONDS} s: {output.read_text()[-2000:]}")


def answers(folder: Path) -> dict[str, str]:
    (file,) = (folder / "samples").glob("copy.short.jsonl")
    return {one["id"]: one["completion"] for one in map(json.loads, file.read_text().splitlines())}


def test_a_served_checkpoint_answers_as_in_transformers(server, checkpoint, tmp_path):
    """The command of the page on serving; no answer differs."""
    common = ["eval", str(checkpoint), "--tasks", "copy", "--limit", "24"]
    served = ["--engine", "openai", "--base-url", server]
    runs = {"here": ["--dtype", "float32"], "there": served}
    for name, more in runs.items():
        done = CliRunner().invoke(app, [*common, *more, "--readouts", "short", "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    here, there = (answers(tmp_path / name) for name in runs)
    assert len(here) == 24 and here == there
