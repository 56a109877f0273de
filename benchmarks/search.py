"""What one round of a search costs: the official way, plainly in memory, and with the shared engine.

    python benchmarks/search.py --items 16

Every way runs in a process of its own on the same items and the same layers, one after the other, with the same number
of threads. What is compared is CPU time of the whole process (start included) and its peak memory. Ways that take long
are measured on a few candidates, spread over the depth, and scaled to the round; the table says so. Item scores are
compared wherever two ways answered the same item, and the chosen layer with that of a round without racing.

The official way (arXiv:2602.01997) writes each candidate to disk and loads it in a fresh process. Here the writing is
layercut's own, which is faster than mergekit's, so the ratios are on the low side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import ways

from layercut.runs.atomic import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--tasks", default="arithmetic,brackets,copy", help="built-in tasks with short answers")
    parser.add_argument("--readouts", default="short,rank")
    parser.add_argument("--items", type=int, default=32, help="of each task")
    parser.add_argument("--chains", type=int, default=32, help="chains of gsm_symbolic; 0 leaves them out")
    parser.add_argument("--sample", type=int, default=4, help="candidates on which the slow ways are measured")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kept", type=Path, help="a folder for what each way measured; what is there is not run again")
    asked = parser.parse_args()
    base = {
        key: str(value) for key, value in vars(asked).items() if key in ("model", "tasks", "readouts", "items", "dtype")
    }
    if asked.items:
        builtin(asked, base)
    if asked.chains:
        chains(asked, {**base, "items": str(asked.chains)})


def builtin(asked: argparse.Namespace, base: dict[str, str]) -> None:
    """A round on the built-in suite."""
    shared = measured(asked, "shared_round", base)
    unraced = measured(asked, "shared_round", {**base, "off": "race"})
    layers = shared["layers"]
    sample = spread(layers, asked.sample)
    plain = measured(asked, "plain_round", {**base, "layers": listed(sample)})
    official = [measured(asked, "official_candidate", {**base, "layers": str(layer)}) for layer in sample]
    check("plain and shared", plain["scores"], unraced["scores"])
    check("racing and not racing", shared["scores"], unraced["scores"])
    for one in official:
        check("official and shared", one["scores"], unraced["scores"])
    assert shared["chosen"] == unraced["chosen"], "racing chose another layer"
    count = len(layers)
    per_candidate = sum(one["cpu"] for one in official) / len(official)
    a = per_candidate * count
    b = plain["start"] + (plain["cpu"] - plain["start"]) / len(sample) * count
    what = f"{asked.items} items each of {asked.tasks} by {asked.readouts} ({asked.dtype})"
    title(f"One greedy round, {count} candidates, {what}")
    row(
        "(a) official: cut to disk, fresh process", a, a, max(one["gib"] for one in official), f"{len(sample)} measured"
    )
    row("(b) plain engine in memory", b, a, plain["gib"], f"{len(sample)} measured")
    row("(c) shared engine, exact racing", shared["cpu"], a, shared["gib"], f"layer {shared['chosen']} chosen")
    print(f"\nAnswers asked: {shared['answers']:,} of {unraced['answers']:,}.")


def chains(asked: argparse.Namespace, base: dict[str, str]) -> None:
    """All candidates answer chains of gsm_symbolic. No racing: the smallest models solve none."""
    shared = measured(asked, "shared_chains", base)
    layers = shared["layers"]
    sample = spread(layers, max(2, asked.sample // 2))
    official = [measured(asked, "official_chains", {**base, "layers": str(layer)}) for layer in sample]
    for one in official:
        check("official and shared", one["scores"], shared["scores"])
    a = sum(one["cpu"] for one in official) / len(official) * len(layers)
    title(f"{len(layers)} candidates, {asked.chains} chains each of gsm_symbolic ({asked.dtype})")
    row(
        "(a) official: cut to disk, fresh process", a, a, max(one["gib"] for one in official), f"{len(sample)} measured"
    )
    row("(c) shared engine, no racing", shared["cpu"], a, shared["gib"], f"{shared['tokens']:,} tokens written")


def measured(
    asked: argparse.Namespace, way: str, settings: dict[str, str], python: str = sys.executable
) -> dict[str, Any]:
    """Run one way in a process of its own: its result, its CPU seconds and its peak memory in GiB, or what was kept."""
    threads = str(asked.threads)
    of = sha256(json.dumps([settings, threads], sort_keys=True).encode()).hexdigest()[:12]
    kept = asked.kept and Path(asked.kept, f"{way}-{of}.json")
    if kept and kept.is_file():
        return dict(json.loads(kept.read_text()))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "0"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [python, str(Path(ways.__file__)), way, str(out), json.dumps(settings)]
        child = subprocess.Popen(command, env=environment, stdout=sys.stderr)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{way} failed: {settings}")
        found: dict[str, Any] = json.loads(out.read_text())
    found |= {"cpu": used.ru_utime + used.ru_stime, "gib": used.ru_maxrss / 2**20}
    print(f"  {way} {settings}: {found['cpu']:.1f} CPU s", file=sys.stderr, flush=True)
    if kept:
        write_json(kept, found)
    return found


def check(what: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Compare all items that both scored."""
    both = ours.keys() & theirs.keys()
    assert both, f"{what}: nothing in common"
    unequal = [key for key in both if ours[key] != theirs[key]]
    print(f"  {what}: {len(unequal)} of {len(both)} item scores differ {unequal[:3]}", file=sys.stderr, flush=True)
    if unequal:
        print(f"\nNOT EQUAL, {what}: {len(unequal)} of {len(both)} item scores.")


def spread(layers: list[int], number: int) -> list[int]:
    """So many layers, evenly over the depth."""
    return [layers[round((index + 0.5) * len(layers) / number - 0.5)] for index in range(min(number, len(layers)))]


def listed(layers: list[int]) -> str:
    return ",".join(map(str, layers))


def title(text: str) -> None:
    print(f"\n## {text}\n", flush=True)
    print("| way | CPU s a round | x less | peak GiB | |\n|---|---:|---:|---:|---|")


def row(name: str, cpu: float, reference: float, gib: float, note: str) -> None:
    print(f"| {name} | {cpu:.0f} | {reference / cpu:.1f} | {gib:.2f} | {note} |", flush=True)


if __name__ == "__main__":
    main()
