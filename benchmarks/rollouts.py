"""Speed of on-policy distillation by who writes the answers, and how many of them at once.

    python benchmarks/rollouts.py --steps 3 --seeds 0,1,2 --threads 2

The ways: the plain engine for each micro batch (transformers' ``generate``), the shared engine for each micro batch,
and the shared engine for each optimizer step, as ``layercut heal`` does it. Each training is a process of its own, the
ways by turns for each seed, each begun by another way. Tokens a second are the answers' tokens over the wall time of
the whole loop: answers, teacher, student and optimizer. One step to warm up is not counted; the first of a training
also probes whether the shared engine runs the model. Losses and final adapters must be equal in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

WAYS = {
    "plain-micro": "plain engine, each micro batch",
    "shared-micro": "shared engine, each micro batch",
    "shared-step": "shared engine, each step",
}
PLACES = ("a harbour", "an old library", "the moon", "a mountain hut", "a busy kitchen", "a quiet island", "a train")
HEROES = ("a baker", "two sisters", "a retired sailor", "a shy robot", "a young doctor", "a fox", "a lost tourist")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m", help="the original model")
    parser.add_argument("--remove", default="20-22", help="layers that are removed")
    parser.add_argument("--method", default="lora", help="lora, full or last-k")
    parser.add_argument("--batch-size", type=int, default=16, help="examples of an optimizer step")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64, help="of each answer, at most")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a training, after one to warm up")
    parser.add_argument("--seeds", default="0,1", help="a training of each way for each")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cut", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.mkdir()
        (asked.out / "found.json").write_text(json.dumps(measured(asked)))
        return
    seeds, ways = [int(seed) for seed in asked.seeds.split(",")], asked.ways.split(",")
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="layercut-bench-") as folder:
        cut = Path(folder, "cut")
        command = ["cut", asked.model, "--remove", asked.remove, "--no-verify", "--out", str(cut)]
        subprocess.run([sys.executable, "-m", "layercut", *command], check=True, stdout=subprocess.DEVNULL)
        for turn, seed in enumerate(seeds):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                found[way].append(in_a_process(asked, way, seed, cut, Path(folder, f"{way}-{seed}")))
    show(asked, seeds, found)


def in_a_process(asked: argparse.Namespace, way: str, seed: int, cut: Path, out: Path) -> dict[str, Any]:
    given = ["--one", way, "--seed", str(seed), "--cut", str(cut), "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": str(asked.threads)}
    subprocess.run([sys.executable, __file__, *sys.argv[1:], *given], check=True, env=env)
    return dict(json.loads((out / "found.json").read_text()))


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """One training."""
    from layercut.engine import shared
    from layercut.engine.handle import ModelHandle
    from layercut.engine.plain import PlainEngine
    from layercut.healing import distill
    from layercut.healing.distill import OnPolicyTrainer
    from layercut.healing.examples import Data, encode_example
    from layercut.healing.heal import objective_of
    from layercut.healing.settings import TrainSettings
    from layercut.healing.sft import train
    from layercut.healing.trainable import load_pair, make_trainable
    from layercut.settings import ModelSettings

    engine, unit = asked.one.split("-")
    if engine == "plain":
        distill.fastest_engine = PlainEngine  # type: ignore[attr-defined]
    probing, rolling_out = Timed(shared._probed), Timed(OnPolicyTrainer._roll_out)
    shared._probed = probing  # type: ignore[assignment]
    written: list[int] = []

    class Measured(OnPolicyTrainer if unit == "step" else by_micro_batch()):  # type: ignore[misc]
        def _roll_out(self, prompts: Any) -> Any:
            answers = rolling_out(self, prompts)
            written.append(sum(len(one.completion) for one in answers.values() if one is not None))
            return answers

    settings = TrainSettings(
        method=asked.method,
        objective="on-policy",
        batch_size=asked.batch_size,
        micro_batch=asked.micro_batch,
        rollout_start=asked.new_tokens,
        rollout_max=asked.new_tokens,
        max_steps=asked.steps + 1,
        warmup_steps=0,
        patience=0,
        save_every=10**6,
        seed=asked.seed,
    )
    handles = [ModelHandle(ModelSettings(model=str(name), dtype="float32")) for name in (asked.cut, asked.model)]
    cut, uncut = load_pair(*handles, settings)
    records = prompts(asked.batch_size * (asked.steps + 1))
    data = Data([encode_example(cut.tokenizer, one) for one in records], [])
    options = objective_of(cut, uncut, settings, data, records) | {"trainer": Measured}
    model = make_trainable(cut.model, settings)
    ends: list[dict[str, float]] = []

    def ended(done: int, total: int) -> None:
        times = {"wall": time.perf_counter(), "cpu": time.process_time()}
        ends.append(times | {"answering": rolling_out.seconds, "tokens": sum(written)})

    trained = train(model, cut.tokenizer, data, settings, asked.out / "run", on_progress=ended, **options)
    return {name: ends[-1][name] - ends[1][name] for name in ends[1]} | {
        "probe": probing.seconds,
        "losses": [line["loss"] for line in trained.curve if "loss" in line],
        "weights": [sha256(file.read_bytes()).hexdigest() for file in sorted(trained.final.glob("*.safetensors"))],
    }


def by_micro_batch() -> Any:
    """The trainer that has the answers of each micro batch written by themselves."""
    from layercut.healing.distill import OnPolicyTrainer

    class ByMicroBatch(OnPolicyTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self._coming, self._answers = [], {}
            return super().training_step(*args, **kwargs)

    return ByMicroBatch


class Timed:
    """A function and the seconds that its calls took."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.work(*args)
        finally:
            self.seconds += time.perf_counter() - began


def prompts(count: int) -> list[dict[str, Any]]:
    """Requests for stories, as records of answers."""
    asked = []
    for index in range(count):
        place, hero = PLACES[index % len(PLACES)], HEROES[index // len(PLACES) % len(HEROES)]
        asked.append(f"Write story number {index + 1} of a series. It is set in {place} and is about {hero}.\n\n")
    return [
        {"id": f"story {index}", "prompt": prompt, "completion": "Once upon a time", "finish_reason": "length"}
        for index, prompt in enumerate(asked)
    ]


def show(asked: argparse.Namespace, seeds: list[int], found: dict[str, list[dict[str, Any]]]) -> None:
    print(
        f"{asked.model} without layers {asked.remove}, {asked.method}, float32, batch {asked.batch_size} in micro "
        f"batches of {asked.micro_batch}, answers up to {asked.new_tokens} tokens, {asked.threads} thread(s), "
        f"load average {os.getloadavg()[0]:.1f}, nice {os.nice(0)}"
    )
    print(f"seeds {', '.join(map(str, seeds))}: n = {asked.steps} steps x {len(seeds)} trainings for each way")
    head = ("tokens/s", "lowest", "highest", "x", "answers", "rest", "CPU s/step", "probe s")
    print(f"{'way':<33}" + "".join(f"{name:>11}" for name in head))
    first = None
    for way, runs in found.items():
        speeds = [run["tokens"] / run["wall"] for run in runs]
        wall, answering = (sum(run[name] for run in runs) for name in ("wall", "answering"))
        speed = sum(run["tokens"] for run in runs) / wall
        first = first or speed
        cpu = sum(run["cpu"] for run in runs) / (asked.steps * len(runs))
        cells = (f"{speed:.1f}", f"{min(speeds):.1f}", f"{max(speeds):.1f}", f"{speed / first:.2f}")
        cells += (f"{100 * answering / wall:.0f} %", f"{100 - 100 * answering / wall:.0f} %", f"{cpu:.1f}")
        print(f"{WAYS[way]:<33}" + "".join(f"{cell:>11}" for cell in (*cells, f"{max(r['probe'] for r in runs):.2f}")))
    for what in ("losses", "weights"):
        distinct = {json.dumps([run[what] for run in runs]) for runs in found.values()}
        print(f"{what}: {'equal' if len(distinct) == 1 else 'NOT equal'} in all ways, seed by seed")


if __name__ == "__main__":
    main()
