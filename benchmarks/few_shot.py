"""What long prompts with worked examples cost, item by item, on the shared engine and on the plain one.

    python benchmarks/few_shot.py mmlu:5=data/mmlu hellaswag:5=data/hellaswag --limit 16

Every engine runs each task in a process of its own, with one thread; what is compared is CPU time without the start,
and the scores must agree. ``--against DIR`` times the shared engine of another checkout as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK=PATH")
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--engines", default="plain,shared")
    parser.add_argument("--against", type=Path, help="another checkout of layercut")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(measure(asked)))
        return
    ours = Path(__file__).parents[1]
    ways = {name: (name, ours) for name in asked.engines.split(",")}
    if asked.against:
        ways["shared, other checkout"] = ("shared", asked.against.resolve())
    print(f"{asked.model}, float32, one thread, {asked.limit} items a task, load average {os.getloadavg()[0]:.1f}")
    for task in asked.tasks:
        found = {name: in_a_process(asked, engine, task, home) for name, (engine, home) in ways.items()}
        shared = found["shared"]
        for name, result in found.items():
            furthest = max(abs(a - b) for a, b in zip(result["scores"], shared["scores"], strict=True))
            print(f"{task.partition('=')[0]:16} {name:24} {result['cpu']:8.1f} CPU s", end="")
            print(f"   x {result['cpu'] / shared['cpu']:.2f}   {result['gib']:.2f} GiB", end="")
            print(f"   furthest score {furthest:.1e} nats")


def in_a_process(asked: argparse.Namespace, engine: str, task: str, home: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [sys.executable, __file__, task, "--model", asked.model, "--limit", str(asked.limit)]
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(home / "src")}
        subprocess.run([*command, "--one", engine, "--out", str(out)], check=True, env={**os.environ, **own})
        return dict(json.loads(out.read_text()))


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One engine and task."""
    import resource

    from layercut.engine.handle import ModelHandle
    from layercut.settings import ModelSettings
    from layercut.surgery.plan import CutPlan
    from layercut.tasks import load_task
    from layercut.tasks.evaluate import evaluate

    name, _, data = asked.tasks[0].partition("=")
    task = load_task(name, data=data or None)
    task.samples("report", asked.limit)
    engine = ModelHandle(ModelSettings(model=asked.model, dtype="float32", engine=asked.one)).engine
    started = time.process_time()
    records = evaluate(task, engine, CutPlan(num_layers=engine.num_layers), limit=asked.limit).records
    return {
        "cpu": time.process_time() - started,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "scores": [score for record in records for score in record["log_likelihoods"]],
    }


if __name__ == "__main__":
    main()
