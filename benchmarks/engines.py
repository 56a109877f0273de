"""What each engine makes of the same work, and how near a step comes to what this machine can do at most.

    python benchmarks/engines.py --counts 1,8,64 --engines shared:float32,unpacked:float32,plain:float32
    python benchmarks/engines.py --model bundled:qwen2.5-coder-1.5b --counts 1,64,200 --gsm8k data/gsm8k \
        --engines shared:bfloat16,vllm:bfloat16,llama.cpp:model-Q8_0.gguf --python vllm=PATH --new-tokens 96

Every engine runs in a process of its own, one after the other, with the same number of threads, and no prompt comes
twice. Tokens a second are new tokens over the wall time of a call, and over its CPU time, which other work on the
machine moves less. A step is the time of a call less that of a call with answers of 4 tokens, over the tokens between,
so that prompts, start and packing do not count. It reads all weights that tokens are multiplied with, and the keys and
values of all rows, and does two operations for each weight and row: its bound is the longer of bytes over the memory's
bandwidth and operations over the matrix peak, both measured here, between the engines; the best of all measurements
counts. A GGUF file's bytes are the file's, and its peak is that of bfloat16. ``unpacked`` is the shared engine without
packed weights. Answers are compared with those of the first engine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

SHORT = 4
"""New tokens of the calls that are taken off."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--engines", default="shared:float32,plain:float32", help="ENGINE:DTYPE or llama.cpp:FILE")
    parser.add_argument("--counts", default="1,32,200", help="requests of a call, all under way at once")
    parser.add_argument("--most", action="append", default=[], help="ENGINE=COUNT or ENGINE:DTYPE=COUNT")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each answer, at most")
    parser.add_argument("--gsm8k", type=Path, help="a folder of it, for chains; pages that are made up if left out")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cache-gib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", action="append", default=[], help="ENGINE=PATH of another interpreter")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(measure_machine() if asked.one == "machine" else measure(asked)))
        return
    machines, results = [in_a_process(asked, "machine", __file__)], {}
    for name in asked.engines.split(","):
        results[name] = in_a_process(asked, name, __file__)
        machines.append(in_a_process(asked, "machine", __file__))
    best = {key: max(machine[key] for machine in machines) for key in machines[0]}
    print(f"{asked.model}, {asked.threads} thread(s), median of {asked.repeats}, ", end="")
    print(
        f"load average {os.getloadavg()[0]:.1f}, nice {os.nice(0)}; memory {best['bandwidth'] / 1e9:.0f} GB/s; ", end=""
    )
    print(", ".join(f"{best[key] / 1e9:.0f} GFLOP/s in {key}" for key in ("float32", "bfloat16")))
    show_results(results, best)


def in_a_process(asked: argparse.Namespace, name: str, script: str) -> dict[str, Any]:
    """What a script measures of ENGINE or ENGINE:SETTING, in the interpreter that was named for the engine."""
    interpreters = dict(entry.split("=", 1) for entry in asked.python)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        interpreter = interpreters.get(name.partition(":")[0], sys.executable)
        command = [interpreter, script, *sys.argv[1:], "--one", name, "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(asked.threads)})
        return dict(json.loads(out.read_text()))


def measure_machine() -> dict[str, float]:
    """Bytes and operations a second at best: of reading an array, and of large products by torch and by oneDNN."""
    import torch

    array = torch.randn(2**27)
    result = {"bandwidth": array.nbytes / min(seconds_of(array.sum) for _ in range(5))}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(4096, 4096, dtype=dtype), torch.randn(4096, 4096, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(right, len(left))
        times = []
        for _ in range(5):
            times.append(seconds_of(left.matmul, right))
            times.append(seconds_of(torch.ops.mkldnn._linear_pointwise, left, packed, None, "none", [], ""))
        result[str(dtype).partition(".")[2]] = 2 * left.numel() * len(right) / min(times)
    return result


def seconds_of(work: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One engine."""
    from layercut.engine import shared
    from layercut.engine.handle import ModelHandle
    from layercut.engine.stack import Stack
    from layercut.models.weights import cached_values, read_config
    from layercut.settings import ModelSettings
    from layercut.surgery.plan import CutPlan

    shared._PACKS = 1  # also for the shorter call
    kind, _, what = asked.one.partition(":")
    if kind == "unpacked":
        Stack.packed = lambda _: nullcontext()  # type: ignore[method-assign]
    file = what if kind == "llama.cpp" else None
    most = dict(entry.split("=", 1) for entry in asked.most)
    largest = float(most.get(asked.one, most.get(kind, "inf")))
    counts = [count for count in map(int, asked.counts.split(",")) if count <= largest]
    result: dict[str, Any] = {"calls": {}, "answers": {}}
    fresh = prompts(asked, sum(counts) * 2 * asked.repeats + 8)
    first = list(islice(fresh, min(8, max(counts))))
    handle = None
    for count in counts:
        if handle is None or file:  # llama.cpp has as many slots as the batch size, so each count has its own
            settings = {"model": file or asked.model, "engine": "shared" if kind == "unpacked" else kind}
            settings |= {"dtype": "auto" if file else what, "batch_size": count if file else max(counts)}
            handle = ModelHandle(ModelSettings(**settings, cache_gib=asked.cache_gib))  # type: ignore[arg-type]
        engine, uncut = handle.engine, CutPlan(num_layers=handle.num_layers)
        time_call(engine, uncut, [replace(request, max_new_tokens=SHORT) for request in first[:count]])
        calls = result["calls"][str(count)] = []
        for _ in range(asked.repeats):
            call = time_call(engine, uncut, list(islice(fresh, count)))
            short = [replace(request, max_new_tokens=SHORT) for request in islice(fresh, count)]
            begun = time_call(engine, uncut, short)
            call |= {"short_wall": begun["wall"], "short_tokens": begun["tokens"]}
            result["answers"] |= {f"{count} {answer.id}": answer.text for answer in call.pop("answers")}
            calls.append(call)
        print(asked.one, count, [round(call["wall"], 2) for call in calls], file=sys.stderr, flush=True)
        if file:
            engine.close()  # type: ignore[attr-defined]
    assert handle is not None, "every count is above --most"
    weights, width = handle.counts, 4 if what == "float32" else 2
    is_tied = read_config(handle.source.path).get("tie_word_embeddings", False)
    multiplied = weights.parameters - (0 if is_tied else weights.vocabulary * weights.hidden_size)
    return result | {
        "parameters": multiplied,  # the embedding counts only where it is the head as well
        "weight_bytes": Path(file).stat().st_size if file else multiplied * width,
        "token_bytes": handle.num_layers * cached_values(handle.source.path) * width,
    }


def time_call(engine: Any, plan: Any, requests: list[Any]) -> dict[str, Any]:
    """Wall and CPU seconds of one call, its tokens, and those in the cache of its rows halfway."""
    from layercut.engine.base import Decoding

    wall, cpu = time.perf_counter(), time.process_time()
    answers = [answer for _, part in engine.ask(requests, [plan], Decoding()) for answer in part]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    new = sum(answer.num_new_tokens for answer in answers)
    cached = sum(answer.num_prompt_tokens for answer in answers) + new / 2
    return {"answers": answers, "wall": wall, "cpu": cpu, "tokens": new, "cached": cached}


def prompts(asked: argparse.Namespace, number: int) -> Iterator[Any]:
    """Requests that begin differently, so that no engine gains by what they share or has read before."""
    from layercut.engine.base import GenerationRequest

    if asked.gsm8k:
        from layercut.tasks import load_task

        task = load_task("gsm8k", data=asked.gsm8k)
        for sample in task.samples("report", None):
            yield replace(task.request(sample, "chain"), max_new_tokens=asked.new_tokens)
        return
    story = "The river ran past the mill, and the miller counted his sacks before the market opened. " * 5
    for index in range(number):
        yield GenerationRequest(id=str(index), prompt=f"Page {index}. {story}Then", max_new_tokens=asked.new_tokens)


def show_results(results: dict[str, dict[str, Any]], best: dict[str, float]) -> None:
    reference = next(iter(results))
    x = f"x {reference}"
    head = ["engine", "requests", "tokens/s", x, "of CPU", x]
    head += ["step, ms", "bound, ms", "by", "of the bound", "equal answers"]
    print(f"\n| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for name, result in results.items():
        for count, calls in result["calls"].items():
            cells = []
            for clock in ("wall", "cpu"):
                base = results[reference]["calls"].get(count, calls)
                speeds = [median(call["tokens"] / call[clock] for call in timed) for timed in (calls, base)]
                cells += [f"{speeds[0]:.1f}", f"{speeds[0] / speeds[1]:.2f}"]
            step = int(count) * median(
                (call["wall"] - call["short_wall"]) / (call["tokens"] - call["short_tokens"]) for call in calls
            )
            cached = median(call["cached"] for call in calls)
            reads = (result["weight_bytes"] + cached * result["token_bytes"]) / best["bandwidth"]
            works = 2 * int(count) * result["parameters"] / best["float32" if name.endswith("float32") else "bfloat16"]
            bound, by = max((reads, "memory"), (works, "arithmetic"))
            cells += [f"{1000 * step:.0f}", f"{1000 * bound:.0f}", by, f"{bound / step:.2f}"]
            ids = [key for key in result["answers"] if key.startswith(f"{count} ")]
            equal = sum(result["answers"][key] == results[reference]["answers"].get(key) for key in ids)
            print(f"| {name} | {count} | {' | '.join(cells)} | {equal} of {len(ids)} |", flush=True)


if __name__ == "__main__":
    main()
