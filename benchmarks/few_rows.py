"""What oneDNN's products with few rows are worth in decoding (``layercut.engine.products``), in float32 on a CPU.

    python benchmarks/few_rows.py --rows 2,4,8,12,24,64
    python benchmarks/few_rows.py --model bundled:qwen2.5-coder-1.5b --threads 2

Steps of one decoding with a fixed number of rows are taken by turns with torch's own products and with those of
oneDNN, so that what else the machine does weighs on both. The ratio is the median over pairs of neighbouring steps,
with a 95 % interval of a bootstrap over the pairs. The share of the matrix peak is that of oneDNN's steps, counted as
in ``engines.py``. Then both ways write all answers, which are compared.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from engines import multiplied, peak_of
from scipy.stats import bootstrap

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.decoding import DecodingPool
from layercut.engine.handle import ModelHandle
from layercut.engine.stack import Stack
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan

WITH, WITHOUT = Stack.few_rows, lambda _: nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--rows", default="1,2,3,4,6,8,12,15,16,24,32,64")
    parser.add_argument("--steps", type=int, default=24, help="timed for each number of rows")
    parser.add_argument("--cache-gib", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.set_defaults(dtype="float32")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    settings = ModelSettings(
        model=asked.model, dtype=asked.dtype, engine="shared", batch_size=64, cache_gib=asked.cache_gib
    )
    handle, peak = ModelHandle(settings), peak_of(asked)
    engine, operations = handle.engine, 2 * multiplied(handle)
    print(f"{asked.model}, {asked.dtype}, {asked.threads} thread(s), {asked.steps} steps, seed {asked.seed}, ", end="")
    print(f"matrix peak {peak / 1e9:.0f} GFLOP/s\n")
    head = ("rows", "torch, ms a step", "oneDNN, ms", "x faster", "pairs", "of the peak", "equal answers")
    print(f"| {' | '.join(head)} |\n|{'---:|' * len(head)}")
    for rows in map(int, asked.rows.split(",")):
        times = by_turns(engine, rows, asked.steps)
        slow, fast = np.array(times[: len(times) // 2 * 2]).reshape(-1, 2).T
        ratio = np.median(slow / fast)
        found = bootstrap((slow / fast,), np.median, rng=np.random.default_rng(asked.seed)).confidence_interval
        texts = [texts_of(engine, rows, asked.steps, way) for way in (WITHOUT, WITH)]
        equal = sum(one == other for one, other in zip(*texts, strict=True))
        milliseconds = f"{1000 * np.median(slow):.0f} | {1000 * np.median(fast):.0f}"
        interval = f"{ratio:.2f} [{found.low:.2f}, {found.high:.2f}]"
        share = f"{100 * operations * rows / np.median(fast) / peak:.0f} %"
        print(f"| {rows} | {milliseconds} | {interval} | {len(slow)} | {share} | {equal} of {rows} |", flush=True)


def by_turns(engine: Any, rows: int, num_steps: int) -> list[float]:
    """Seconds of each step with all rows, one way and the other."""
    own, times = DecodingPool.step, []

    def step(pool: DecodingPool) -> Any:
        is_whole = len(pool._active) == rows
        Stack.few_rows = (WITHOUT, WITH)[len(times) % 2]  # type: ignore[method-assign]
        started = time.perf_counter()
        ended = own(pool)
        if is_whole:
            times.append(time.perf_counter() - started)
        return ended

    DecodingPool.step = step  # type: ignore[method-assign]
    try:
        texts_of(engine, rows, num_steps + 2, WITH)
    finally:
        DecodingPool.step = own  # type: ignore[method-assign]
    return times[2:]


def texts_of(engine: Any, rows: int, num_tokens: int, way: Any) -> list[str]:
    Stack.few_rows = way  # type: ignore[method-assign]
    uncut = CutPlan(num_layers=engine.num_layers)
    prompts = [f"On page {index} the miller counted his sacks, and then" for index in range(rows)]
    requests = [
        GenerationRequest(id=str(index), prompt=prompt, max_new_tokens=num_tokens + 1)
        for index, prompt in enumerate(prompts)
    ]
    answers = (batch for _, batch in engine.ask(requests, [uncut], Decoding()))
    return [one.text for one in sorted((one for part in answers for one in part), key=lambda one: int(one.id))]


if __name__ == "__main__":
    main()
