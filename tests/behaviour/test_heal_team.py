"""``layercut heal`` in two processes of a launcher: the loss curve and the checkpoint of one process.

Once with the whole model in each (``ddp``), once sharded over both (``fsdp2``, ``zero3``), by the configurations that
are shipped. ``zero3`` needs DeepSpeed, which compiles a part of itself: pip install deepspeed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from tests.support.tiny import save_tiny

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

ROOT = Path(__file__).parents[2]
OPTIONS = (
    *("--max-new-tokens", "8", "--temperature", "0.8", "--keep-unfinished"),
    *("--train-batch", "8", "--micro-batch", "2", "--max-steps", "6", "--save-every", "3", "--warmup-steps", "0"),
    *("--held-out", "0.2", "--learning-rate", "1e-3", "--patience", "0", "--device", "cpu", "--dtype", "float32"),
)
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
KINDS = ("ddp", "fsdp2", pytest.param("zero3", marks=needs_deepspeed))


def launcher(kind: str) -> list[str]:
    """How two processes are started."""
    if kind == "ddp":
        return ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "layercut"]
    config = ["--config_file", str(ROOT / "examples" / "accelerate" / f"{kind}.yaml")]
    changed = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    return ["accelerate.commands.launch", *config, *changed, str(ROOT / "tests" / "support" / "sharded_on_cpu.py")]


def heal(folder: Path, out: Path, kind: str | None, more: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *(launcher(kind) if kind else ("layercut",)), "heal"]
    command += [str(folder / "cut"), "--teacher", str(folder / "uncut"), "--prompts", str(folder / "prompts.jsonl")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"} if kind == "ddp" else {}
    environment |= {"DS_ACCELERATOR": "cpu"} if kind == "zero3" else {}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command += [*OPTIONS, *more, "--out", str(out)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)


def healed(folder: Path, out: Path, kind: str | None, more: tuple[str, ...]) -> tuple[str, str]:
    process = heal(folder, out, kind, more)
    said, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return said, errors


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "training" / "loss.jsonl").read_text().splitlines()]


def make_models(folder: Path) -> None:
    save_tiny("llama", folder / "uncut")
    cut_checkpoint(folder / "uncut", CutPlan(num_layers=6, removed=(2, 4)), folder / "cut")
    rows = [{"instruction": f"Count to {number}", "output": "one"} for number in range(60)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def assert_alike(folder: Path, one: str, two: str) -> None:
    """The same loss curve, and weights that are as far apart as rounding takes them."""
    ours, theirs = curve(folder / one), curve(folder / two)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    trained = [line["loss"] for line in ours if "loss" in line]
    spread = max(trained) - min(trained)
    assert len(trained) == 6 and spread > 0.05 * min(1, max(trained))  # it learns, so equal curves say something
    assert [line["loss"] for line in theirs if "loss" in line] == pytest.approx(trained, rel=1e-3)
    wanted = [line["held_out_loss"] for line in ours if "held_out_loss" in line]
    assert [line["held_out_loss"] for line in theirs if "held_out_loss" in line] == pytest.approx(wanted, rel=0.02)
    before = load_file(folder / "cut" / "model.safetensors")
    moved = max((weights(folder / one)[name] - before[name]).abs().max().item() for name in before)
    apart = max((weights(folder / one)[name] - weights(folder / two)[name]).abs().max().item() for name in before)
    assert apart < 0.05 * moved


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [
        ("--method", "full"),
        ("--method", "last-k"),
        ("--method", "full", "--objective", "forward-kl"),
        ("--method", "lora", "--rank", "4", "--dropout", "0", "--objective", "forward-kl"),
    ],
    ids=["sft", "last-k", "forward-kl", "lora"],
)
def test_two_processes_have_the_loss_curve_of_one(more, kind, tmp_path):
    make_models(tmp_path)
    healed(tmp_path, tmp_path / "one", None, more)
    said, errors = healed(tmp_path, tmp_path / "two", kind, more)
    assert said.count("checkpoint: ") == 1, "one process speaks for all"
    if kind != "ddp":
        recorded = re.findall(r"sharded (\d+) of (\d+), (\d+) elements here", errors)
        assert len(recorded) == 2 and all(0 < int(sharded) == int(parts) for sharded, parts, _ in recorded)
        wanted = re.search(r"([\d,]+) trainable parameters", errors)
        assert wanted and sum(int(here) for *_, here in recorded) == int(wanted[1].replace(",", ""))
    assert_alike(tmp_path, "one", "two")
    again, _ = healed(tmp_path, tmp_path / "two", kind, more)
    assert "trained on" in again


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_that_were_killed_go_on(kind, tmp_path):
    make_models(tmp_path)
    more = ("--method", "full")
    healed(tmp_path, tmp_path / "whole", kind, more)
    process = heal(tmp_path, tmp_path / "killed", kind, more)
    state = tmp_path / "killed" / "training" / "checkpoint-3" / "trainer_state.json"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the healing ended before it was killed"
    healed(tmp_path, tmp_path / "killed", kind, more)
    assert_alike(tmp_path, "whole", "killed")


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_the_shipped_configurations_are_what_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "examples" / "accelerate" / f"{name}.yaml"
    found: Any = load_config_from_file(str(file))
    assert found.num_processes == 8
    asked = yaml.safe_load(file.read_text())
    settings = asked.get("fsdp_config") or asked["deepspeed_config"]
    assert (found.fsdp_config or found.deepspeed_config) == settings
    if name == "fsdp2":
        assert settings["fsdp_state_dict_type"] == "FULL_STATE_DICT"  # the Trainer writes no other whole weights
        assert not settings["fsdp_activation_checkpointing"]  # the Trainer refuses both kinds at once
    assert torch.distributed.is_available()
