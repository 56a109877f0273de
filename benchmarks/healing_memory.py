"""Memory of healing: what ``heal --dry-run`` predicts for a training step, against what training takes.

    python benchmarks/healing_memory.py --tokens 256 --micro-batch 4
    python benchmarks/healing_memory.py --model runs/llama-24 --ways full,full-adafactor --tokens 2048
    python benchmarks/healing_memory.py --whole --model pruned --ways lora,last-k,seam --tokens 256 --micro-batch 2

Each way trains a pruned model for a few steps on examples of one length, in a process of its own. Measured is the peak
above what the process took before the model was loaded: resident memory on a CPU (VmHWM, Linux alone), allocated memory
on a GPU. On a CPU the allocator returns freed memory at once (MALLOC_MMAP_THRESHOLD_), as it would else keep some.

With `--whole` it is `layercut heal` from its first line to the written checkpoint, with the allocator as it is,
against the memory that `--dry-run` names. `--model` is then a folder that `layercut cut` wrote, and the original model
its teacher.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "last-k": {"method": "last-k"},
    "full": {"method": "full"},
    "full-checkpointing": {"method": "full", "gradient_checkpointing": "on"},
    "full-adafactor": {"method": "full", "optimizer": "adafactor"},
    "lora-forward-kl": {"objective": "forward-kl"},
    "seam": {"method": "seam"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m", help="the pruned model; also the teacher")
    trained = ",".join(way for way in WAYS if way != "seam")  # which has no training step, and needs --whole
    parser.add_argument("--ways", default=trained, help=f"of {', '.join(WAYS)}")
    parser.add_argument("--tokens", type=int, default=256, help="of an example; half of them are in the loss")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=2, help="micro batches of a step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="the whole of `layercut heal`, not a training step")
    parser.add_argument("--teacher", default="bundled:smollm2-135m", help="the original model, with --whole")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure is not None:
        print(json.dumps((whole if asked.whole else measured)(asked, asked.measure)))
        return
    print(f"{'way':<20} {'predicted':>10} {'measured':>10} {'ratio':>6}  parts (MB)")
    for way in asked.ways.split(","):
        words = [sys.executable, __file__, *sys.argv[1:], "--measure", way]
        allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        environment = os.environ | ({} if asked.whole else allocator)
        ran = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(ran.stdout.splitlines()[-1])
        total = sum(found["parts"].values())
        parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in found["parts"].items() if size)
        row = f"{way:<20} {total / 1e9:>8.2f} GB {found['peak'] / 1e9:>7.2f} GB {total / found['peak']:>6.2f}"
        print(f"{row}  {parts}", flush=True)


def measured(asked: argparse.Namespace, way: str) -> dict[str, Any]:
    """The prediction by part, and the peak of a training."""
    import torch

    from layercut.engine.handle import ModelHandle
    from layercut.healing.distill import DistillTrainer
    from layercut.healing.examples import Data, TrainingExample
    from layercut.healing.outline import training_parts
    from layercut.healing.settings import TrainSettings
    from layercut.healing.sft import train_model
    from layercut.healing.trainable import load_for_training, make_trainable
    from layercut.settings import ModelSettings

    size = {"batch_size": asked.micro_batch * asked.accumulation, "micro_batch": asked.micro_batch}
    fixed = {"max_steps": asked.steps, "warmup_steps": 0, "patience": 0, "save_every": 10**6}
    settings = TrainSettings(**size, **fixed, **WAYS[way])
    in_loss, on_gpu = asked.tokens // 2, torch.cuda.is_available()
    teaches = settings.objective != "sft"
    handle = ModelHandle(ModelSettings(model=asked.model))
    teacher = handle if teaches else None
    parts = training_parts(handle, teacher, settings, num_tokens=asked.tokens, num_in_loss=in_loss)
    ids = tuple(100 + index % 1000 for index in range(asked.tokens))
    examples = [TrainingExample(str(one), ids[:-in_loss], ids[-in_loss:]) for one in range(settings.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        before = started(on_gpu)
        loaded = load_for_training(handle, settings)
        options: dict[str, Any] = {}
        if teaches:
            uncut = load_for_training(handle, settings).model
            options = {"trainer": DistillTrainer, "teacher": uncut, "kind": settings.objective}
        model = make_trainable(loaded.model, settings)
        data = Data(examples * asked.steps, [])
        train_model(model, loaded.tokenizer, data, settings, Path(folder) / "run", **options)
    return {"parts": parts, "peak": peak(on_gpu) - before}


def whole(asked: argparse.Namespace, way: str) -> dict[str, Any]:
    """What `heal --dry-run` says of a run, by part, and the peak of that run above Python and its libraries."""
    import peft  # noqa: F401
    import torch

    from layercut.cli.main import verb_command
    from layercut.healing import checkpoint, heal, seam, sft  # noqa: F401

    heal_verb, on_gpu, size = verb_command("heal"), torch.cuda.is_available(), asked.micro_batch * asked.accumulation
    given = {"batch_size": size, "micro_batch": asked.micro_batch, **WAYS[way]}
    if given.get("method") != "seam":
        given |= {"max_steps": asked.steps}
    with tempfile.TemporaryDirectory() as folder:
        records, out = Path(folder) / "prompts.jsonl", Path(folder) / "run"
        limit = asked.tokens // 2  # the longest answer reaches it
        rows = [{"prompt": f"Count from {one} to 1000, one number a line."} for one in range(4 * size)]
        records.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        words = [asked.model, "--teacher", asked.teacher, "--prompts", str(records), "--out", str(out)]
        words += ["--max-new-tokens", str(limit), "--keep-unfinished"]
        words += [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            heal_verb([*words, "--dry-run", "--json"], standalone_mode=False)
        parts = json.loads(said.getvalue())["memory_parts"]
        before = started(on_gpu)
        with contextlib.redirect_stdout(io.StringIO()):
            heal_verb(words, standalone_mode=False)
        return {"parts": parts, "peak": peak(on_gpu) - before}


def started(on_gpu: bool) -> int:
    """Bytes that the process takes before anything is loaded; the peak counts from here."""
    import torch

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(on_gpu: bool) -> int:
    """The most bytes since ``started``."""
    import torch

    return torch.cuda.max_memory_allocated() if on_gpu else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
