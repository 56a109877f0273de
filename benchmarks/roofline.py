"""How near one step of decoding comes to what this machine can do at most, for several engines in one run.

    python benchmarks/roofline.py --rows 1,8,64 --engines shared:float32,unpacked:float32
    python benchmarks/roofline.py --model bundled:qwen2.5-coder-1.5b --rows 1,8,64,256,600 \
        --engines shared:bfloat16,unpacked:bfloat16,vllm:bfloat16,llama.cpp:model-Q8_0.gguf --python vllm=PATH

A step reads all weights that tokens are multiplied with, and the keys and values of all rows, and does two operations
for each weight and row. Its bound is the longer of bytes over the memory's bandwidth and operations over the matrix
peak, both measured here, between the engines; the best of all measurements counts. A GGUF file's bytes are the file's,
and its peak is that of bfloat16. A measured step is the time of answers of 20 or 68 tokens less that of
answers of 4 to the same prompts, over the tokens between, so that prompts, start and packing do not count.
``unpacked`` is the shared engine without packed weights. Each engine has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engines import in_a_process

SHORT, LONG = 4, {True: 68, False: 20}
"""New tokens of the two calls whose difference is taken; the longer one's with fewer than 64 rows, and with more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--engines", default="shared:float32,unpacked:float32", help="ENGINE:DTYPE or llama.cpp:FILE")
    parser.add_argument("--rows", default="1,8,64")
    parser.add_argument("--most", action="append", default=[], help="ENGINE=ROWS or ENGINE:DTYPE=ROWS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache-gib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", action="append", default=[], help="ENGINE=PATH of another interpreter")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(machine(asked) if asked.one == "machine" else measure(asked)))
        return
    machines, found = [in_a_process(asked, "machine", __file__)], {}
    for name in asked.engines.split(","):
        found[name] = in_a_process(asked, name, __file__)
        machines.append(in_a_process(asked, "machine", __file__))
    best = {key: max(one[key] for one in machines) for key in machines[0]}
    print(f"{asked.model}, {asked.threads} threads, {asked.repeats} repeats, load average {os.getloadavg()[0]:.1f}")
    print(f"memory {best['bandwidth'] / 1e9:.0f} GB/s; matrix peak ", end="")
    print(", ".join(f"{best[key] / 1e9:.0f} GFLOP/s in {key}" for key in ("float32", "bfloat16")), end="\n\n")
    head = ("engine", "rows", "bound, ms a step", "by", "measured, ms", "range", "of the bound", "tokens/s")
    print(f"| {' | '.join(head)} |\n|---|---:|---:|---|{'---:|' * 4}")
    for name, one in found.items():
        for rows, times in one["steps"].items():
            show(name, one, int(rows), sorted(times), best)


def show(name: str, one: dict[str, Any], rows: int, times: list[float], best: dict[str, float]) -> None:
    dtype = "float32" if name.endswith("float32") else "bfloat16"
    reads = (one["weight_bytes"] + rows * (LONG[rows < 64] + SHORT) / 2 * one["token_bytes"]) / best["bandwidth"]
    works = 2 * rows * one["parameters"] / best[dtype]
    bound, step = max(reads, works), times[len(times) // 2]
    span = f"{1000 * times[0]:.0f} to {1000 * times[-1]:.0f}"
    by = "memory" if reads > works else "arithmetic"
    print(f"| {name} | {rows} | {1000 * bound:.0f} | {by} | {1000 * step:.0f} | {span} ", end="")
    print(f"| {bound / step:.2f} | {rows / step:.0f} |", flush=True)


def machine(asked: argparse.Namespace) -> dict[str, float]:
    """Bytes and operations a second at best: of reading an array, and of large products by torch and by oneDNN."""
    import torch
    from ways import matrix_peak

    torch.set_num_threads(asked.threads)
    array = torch.randn(2**27)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - begun)
    found = {"bandwidth": array.nbytes / min(times)}
    for dtype in (torch.float32, torch.bfloat16):
        weight, states = torch.randn(4096, 4096, dtype=dtype), torch.randn(2048, 4096, dtype=dtype)
        in_order = torch.ops.mkldnn._reorder_linear_weight(weight, len(states))
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            torch.ops.mkldnn._linear_pointwise(states, in_order, None, "none", [], "")
            times.append(time.perf_counter() - begun)
        own = matrix_peak(dtype, clock=time.perf_counter)
        found[str(dtype).partition(".")[2]] = max(own, 2 * states.numel() * len(weight) / min(times))
    return found


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One engine."""
    from layercut.engine import shared
    from layercut.engine.base import Decoding, GenerationRequest
    from layercut.engine.handle import ModelHandle
    from layercut.engine.stack import Stack
    from layercut.models.weights import cached_values
    from layercut.settings import ModelSettings
    from layercut.surgery.plan import CutPlan

    shared._PACKS = 1  # also for the shorter call
    kind, _, what = asked.one.partition(":")
    file = what if kind == "llama.cpp" else None
    if kind == "unpacked":
        Stack.packed = lambda _: nullcontext()  # type: ignore[method-assign]
    most = dict(entry.split("=", 1) for entry in asked.most)
    largest = float(most.get(asked.one, most.get(kind, "inf")))
    numbers = [rows for rows in map(int, asked.rows.split(",")) if rows <= largest]

    def handle_for(rows: int) -> ModelHandle:
        fixed = {"model": file or asked.model, "engine": "shared" if kind == "unpacked" else kind}
        dtype = "auto" if file else what
        return ModelHandle(ModelSettings(**fixed, dtype=dtype, batch_size=rows, cache_gib=asked.cache_gib))  # type: ignore[arg-type]

    def seconds(engine: Any, rows: int, tokens: int, label: int) -> tuple[float, int]:
        wanted = [
            GenerationRequest(id=str(one), prompt=f"{label}, {one + 7}, {one + 8}, {one + 9},", max_new_tokens=tokens)
            for one in range(rows)
        ]
        begun = time.perf_counter()
        answers = [one for _, part in engine.ask(wanted, [whole], Decoding()) for one in part]
        return time.perf_counter() - begun, sum(one.num_new_tokens for one in answers)

    handle = handle_for(max(numbers))
    whole = CutPlan(num_layers=handle.num_layers)
    parameters, width = multiplied(handle), 4 if what == "float32" else 2
    found: dict[str, Any] = {
        "parameters": parameters,
        "weight_bytes": Path(file).stat().st_size if file else parameters * width,
        "token_bytes": handle.num_layers * cached_values(handle.source.path) * width,
        "steps": {},
    }
    engine = None if file else handle.engine
    for rows in numbers:
        if file:  # llama.cpp has as many slots as the batch size
            engine = handle_for(rows).engine
        seconds(engine, min(rows, 8), SHORT, 0)
        times = []
        for number in range(asked.repeats):
            short, few = seconds(engine, rows, SHORT, number + 1)
            long, many = seconds(engine, rows, LONG[rows < 64], number + 1)
            times.append((long - short) * rows / (many - few))
        found["steps"][str(rows)] = times
        print(asked.one, rows, [f"{one:.4f}" for one in times], file=sys.stderr, flush=True)
        if file:
            engine.close()  # type: ignore[union-attr]
    return found


def multiplied(handle: Any) -> int:
    """Parameters that a token is multiplied with: the embedding counts only where it is the head as well."""
    from layercut.models.weights import read_config

    weights = handle.counts
    is_tied = read_config(handle.source.path).get("tie_word_embeddings", False)
    return weights.parameters - (0 if is_tied else weights.vocabulary * weights.hidden_size)


if __name__ == "__main__":
    main()
