"""``layercut heal`` in two processes of a launcher: the loss curve and the checkpoint of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    *("--method", "full", "--max-new-tokens", "8", "--temperature", "0.8", "--keep-unfinished"),
    *("--train-batch", "8", "--micro-batch", "2", "--max-steps", "6", "--save-every", "3", "--warmup-steps", "0"),
    *("--held-out", "0.2", "--learning-rate", "1e-3", "--patience", "0", "--device", "cpu", "--dtype", "float32"),
)


def heal(folder: Path, out: Path, processes: int, more: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), "-m", "layercut.cli.main", "heal"]
    command += [str(folder / "cut"), "--teacher", str(folder / "uncut"), "--prompts", str(folder / "prompts.jsonl")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"} if processes > 1 else {}
    return subprocess.run(
        [*command, *OPTIONS, *more, "--out", str(out)], env=environment, cwd=ROOT, capture_output=True, text=True
    )


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "training" / "loss.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--objective", "hidden", "--packing"),
        ("--objective", "forward-kl", "--store-top-k", "16"),
    ],
    ids=["sft", "hidden", "stored"],
)
def test_two_processes_have_the_loss_curve_of_one(more: tuple[str, ...], tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "uncut")
    cut_checkpoint(tmp_path / "uncut", CutPlan(num_layers=6, removed=(2, 4)), tmp_path / "cut")
    rows = [{"instruction": f"Count to {number}", "output": "one"} for number in range(60)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, processes in (("one", 1), ("two", 2)):
        ran = heal(tmp_path, tmp_path / name, processes, more)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert ran.stdout.count("checkpoint: ") == 1, "one process speaks for all"
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    trained = [line["loss"] for line in one if "loss" in line]
    spread = max(trained) - min(trained)
    assert len(trained) == 6 and spread > 0.05 * min(1, max(trained))  # it learns, so equal curves say something
    assert [line["loss"] for line in two if "loss" in line] == pytest.approx(trained, rel=1e-3)
    held_out = [line["held_out_loss"] for line in one if "held_out_loss" in line]
    assert [line["held_out_loss"] for line in two if "held_out_loss" in line] == pytest.approx(held_out, rel=0.02)
    ours, theirs = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("one", "two"))
    before = load_file(tmp_path / "cut" / "model.safetensors")
    moved = max((ours[name] - before[name]).abs().max().item() for name in ours)
    apart = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    assert apart < 0.05 * moved
    again = heal(tmp_path, tmp_path / "two", 2, more)
    assert again.returncode == 0 and "learnt from" in again.stdout, again.stderr[-3000:]


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_the_shipped_configurations_are_what_accelerate_reads(name: str) -> None:
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
