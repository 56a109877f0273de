"""Peak memory of distillation by LoRA: one set of weights for the pruned model and its teacher, against two models.

    python benchmarks/teacher.py --model bundled:smollm2-135m --remove 20-22 --steps 3
    python benchmarks/teacher.py --repaired     # training starts from the model with a map at each seam

Each way is a process of its own, which loads, trains a few steps on sums in float32 on the CPU and ends. Printed are
its peak resident memory after loading and after training (``ru_maxrss``), and whether both give the same adapters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {"two": "two models", "one": "one set of weights"}
TRAINING = """
import json, resource, sys
from pathlib import Path
from layercut.engine.handle import ModelHandle
from layercut.healing import trainable
from layercut.healing.examples import encode_example, hold_out
from layercut.healing.heal import objective_of
from layercut.healing.settings import TrainSettings
from layercut.healing.sft import train
from layercut.healing.trainable import make_trainable
from layercut.settings import ModelSettings

cut, model, folder, steps, way = sys.argv[1:]
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = TrainSettings(objective="forward-kl", max_steps=int(steps), batch_size=4, micro_batch=4, patience=0)
handles = [ModelHandle(ModelSettings(model=name, dtype="float32", device="cpu")) for name in (cut, model)]
if way == "two":
    trainable.share_equal = lambda *args: 0
said = []
cut, uncut = trainable.load_pair(*handles, settings, said.append)
sums = [{"id": str(n), "prompt": f"{n} + {n + 3} =", "completion": f" {2 * n + 3}"} for n in range(40)]
sums = [one | {"finish_reason": "stop"} for one in sums]
data = hold_out([encode_example(cut.tokenizer, one) for one in sums], 0.1, seed=0)
options = objective_of(cut, uncut, settings, data)
after_loading = peak()
model = make_trainable(cut.model, settings)
train(model, cut.tokenizer, data, settings, Path(folder), **options)
print(json.dumps({"loaded": after_loading, "trained": peak(), "shares": bool(said)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m", help="the original model")
    parser.add_argument("--remove", default="20-22", help="layers that are removed")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps")
    parser.add_argument("--repaired", action="store_true", help="train the pruned model with seams")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layercut-bench-") as name:
        folder = Path(name)
        pruned = folder / "cut"
        layercut("cut", asked.model, "--remove", asked.remove, "--no-verify", "--out", pruned)
        if asked.repaired:
            given = ("--teacher", asked.model, "--prompts", "task:arithmetic", "--limit", 40, "--method", "seam")
            layercut("heal", pruned, *given, "--out", folder / "seam")
            pruned = folder / "seam" / "checkpoint"
        found, adapters = {}, []
        for way, words in WAYS.items():
            given = (pruned, asked.model, folder / way, asked.steps, way)
            ran = subprocess.run(
                [sys.executable, "-c", TRAINING, *map(str, given)], check=True, stdout=subprocess.PIPE, text=True
            )
            found[way] = json.loads(ran.stdout.splitlines()[-1])
            adapters.append((folder / way / "final" / "adapter_model.safetensors").read_bytes())
            print(
                f"{words:20} peak {found[way]['loaded'] / 1e6:6.0f} MB after loading, "
                f"{found[way]['trained'] / 1e6:6.0f} MB after training"
            )
        if not found["one"]["shares"]:
            raise SystemExit("these two models do not share weights, so both ways are the same.")
        saved = found["two"]["trained"] - found["one"]["trained"]
        print(f"saved: {saved / 1e6:.0f} MB; adapters are {'equal' if adapters[0] == adapters[1] else 'NOT equal'}")


def layercut(*arguments: object) -> None:
    command = [sys.executable, "-m", "layercut", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
