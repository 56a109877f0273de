"""What each engine makes of the same work: answers a second.

    python benchmarks/engines.py --counts 1,32,200
    python benchmarks/engines.py --python vllm=/path/to/an/environment/with/vllm/bin/python
    python benchmarks/engines.py --model bundled:qwen2.5-coder-1.5b --dtype bfloat16 --gsm8k data/gsm8k \
        --counts 24,64,200 --new-tokens 512 --threads 2 --batch-size 128 --cache-gib 8 --engines shared,vllm

Every engine runs in a process of its own, one after the other, with the same number of threads. Tokens a second are new
tokens over the wall time of a call, after one call to warm up, and over its CPU time, which other work on the machine
moves less. Decoding alone leaves out the time of as many other prompts with one new token each. Answers are compared
with those of the first engine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

ENGINES = ("plain", "shared", "vllm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--counts", default="1,32,200", help="requests of a call")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each answer, at most")
    parser.add_argument("--gsm8k", type=Path, help="a folder of it, for chains; pages that are made up if left out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cache-gib", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", action="append", default=[], help="ENGINE=PATH of another interpreter")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        asked.out.write_text(json.dumps(measure(asked)))
        return
    results = {name: in_a_process(asked, name, __file__) for name in asked.engines.split(",")}
    print(f"{asked.model}, {asked.dtype}, {asked.threads} thread(s), batch size {asked.batch_size}, ", end="")
    print(f"load average {os.getloadavg()[0]:.1f}, nice {os.nice(0)}")
    show_answers(asked, results)


def in_a_process(asked: argparse.Namespace, name: str, script: str) -> dict[str, Any]:
    """What a script measures of ENGINE or ENGINE:SETTING, in the interpreter that was named for the engine."""
    interpreters = dict(entry.split("=", 1) for entry in asked.python)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        interpreter = interpreters.get(name.partition(":")[0], sys.executable)
        command = [interpreter, script, *sys.argv[1:], "--one", name, "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(asked.threads)})
        return dict(json.loads(out.read_text()))


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """One engine."""
    from layercut.engine.base import Decoding
    from layercut.engine.handle import ModelHandle
    from layercut.settings import ModelSettings
    from layercut.surgery.plan import CutPlan

    started = time.perf_counter()
    settings = ModelSettings(
        model=asked.model,
        dtype=asked.dtype,
        engine=asked.one,
        batch_size=asked.batch_size,
        cache_gib=asked.cache_gib,
    )
    handle = ModelHandle(settings)
    engine, uncut = handle.engine, CutPlan(num_layers=handle.num_layers)
    found: dict[str, Any] = {"start": time.perf_counter() - started, "answers": {}, "calls": {}}
    list(engine.ask(requests(1, asked.new_tokens, "warm"), [uncut], Decoding()))
    fresh = prompts(asked)
    for count in map(int, asked.counts.split(",")):
        wanted, others = list(islice(fresh, count)), list(islice(fresh, count))
        wall, cpu = time.perf_counter(), time.process_time()
        answers = [answer for _, part in engine.ask(wanted, [uncut], Decoding()) for answer in part]
        call = found["calls"][str(count)] = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "tokens": sum(answer.num_new_tokens for answer in answers),
        }
        wall = time.perf_counter()
        list(engine.ask([replace(one, max_new_tokens=1) for one in others], [uncut], Decoding()))
        call |= {"prompts": time.perf_counter() - wall, "firsts": count}
        found["answers"] |= {f"{count} {answer.id}": answer.text for answer in answers}
    return found


def prompts(asked: argparse.Namespace) -> Iterator[Any]:
    """No prompt comes twice, so that no engine has read one before."""
    if not asked.gsm8k:
        yield from requests(2 * sum(map(int, asked.counts.split(","))), asked.new_tokens, "in all")
        return
    from layercut.tasks import load_task

    task = load_task("gsm8k", data=asked.gsm8k)
    for sample in task.samples("report", None):
        yield replace(task.request(sample, "chain"), max_new_tokens=asked.new_tokens)


def requests(count: int, new_tokens: int, label: str) -> list[Any]:
    """Prompts of about a hundred tokens that begin differently, so that no engine gains by what they share."""
    from layercut.engine.base import GenerationRequest

    story = "The river ran past the mill, and the miller counted his sacks before the market opened. " * 5
    return [
        GenerationRequest(id=str(index), prompt=f"Page {index} {label}. {story}Then", max_new_tokens=new_tokens)
        for index in range(count)
    ]


def show_answers(asked: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    reference = next(iter(results))
    x = f"x {reference}"
    head = ("engine", "requests", "tokens/s", x, "of CPU", x, "decoding alone", x, "equal answers")
    print(f"\n| {' | '.join(head)} |\n|---|{'---:|' * (len(head) - 1)}")
    for count in asked.counts.split(","):
        base = results[reference]["calls"][count]
        for name, result in results.items():
            call = result["calls"][count]
            cells = [f"{speed(call):.1f} | {speed(call) / speed(base):.2f}" for speed in (whole, of_cpu, decoding)]
            ids = [key for key in results[reference]["answers"] if key.startswith(f"{count} ")]
            equal = sum(result["answers"][key] == results[reference]["answers"][key] for key in ids)
            print(f"| {name} | {count} | {' | '.join(cells)} | {equal} of {len(ids)} |")


def whole(call: dict[str, float]) -> float:
    return call["tokens"] / call["wall"]


def of_cpu(call: dict[str, float]) -> float:
    return call["tokens"] / call["cpu"]


def decoding(call: dict[str, float]) -> float:
    """Tokens a second behind the first ones, which come with the prompts."""
    return (call["tokens"] - call["firsts"]) / (call["wall"] - call["prompts"])


if __name__ == "__main__":
    main()
