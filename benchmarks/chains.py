"""What one round of a search costs on chains of GSM8K, for a model that solves them: with vLLM, and with layercut.

    python benchmarks/chains.py --gsm8k data/gsm8k --vllm PATH/TO/ENVIRONMENT/bin/python

The official way (arXiv:2602.01997) writes each candidate to disk, starts vLLM on it and has it answer all items. It is
measured on a few candidates, spread over the depth, and scaled to the round. layercut races the candidates in one
process, once all of them and once those that trace damage puts first. Compared are CPU seconds of the whole process,
start included, with the same number of threads; item scores are compared wherever two ways answered the same item.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from search import check, listed, measured, row, spread, title


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="a folder of it")
    parser.add_argument("--vllm", required=True, help="interpreter of an environment with vLLM")
    parser.add_argument("--model", default="bundled:qwen2.5-coder-1.5b")
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--layers", help="candidates, separated by commas; all but layer 0 if left out")
    parser.add_argument(
        "--shortlists",
        default="4:8,4:2",
        help="candidates to propose, and items whose answers trace damage reads",
    )
    parser.add_argument("--all", action=argparse.BooleanOptionalAction, default=True, help="race all candidates, too")
    parser.add_argument("--sample", type=int, default=2, help="candidates on which the official way is measured")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--cache-gib", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kept", type=Path, help="a folder for what each way measured; what is there is not run again")
    asked = parser.parse_args()
    settings = {
        "tasks": "gsm8k",
        "readouts": "chain",
        "data": str(asked.gsm8k.resolve()),
        **{key: str(getattr(asked, key)) for key in ("model", "items", "dtype", "batch_size", "cache_gib")},
    }
    if asked.layers:
        settings["layers"] = asked.layers
    proposed = {}
    for pair in asked.shortlists.split(","):
        number, traces = pair.split(":")
        proposed[number, traces] = measured(asked, "shared_round", {**settings, "shortlist": number, "traces": traces})
    layers = next(iter(proposed.values()))["candidates"]
    sample = spread(layers, asked.sample)
    official = [measured(asked, "official_vllm", {**settings, "layers": str(one)}, asked.vllm) for one in sample]
    everyone = [measured(asked, "shared_round", settings)] if asked.all else []
    ours = [*everyone, *proposed.values()]
    for one in ours:
        check("ways of layercut", one["scores"], ours[0]["scores"])
    for one in official if everyone else ():
        check("vLLM and layercut", one["scores"], everyone[0]["scores"])
    total = sum(one["cpu"] for one in official) / len(official) * len(layers)
    title(f"One round, {len(layers)} candidates, {asked.items} chains of GSM8K each ({asked.model}, {asked.dtype})")
    gib, tokens = max(one["gib"] for one in official), sum(one["tokens"] for one in official)
    row("cut to disk, a fresh vLLM", total, total, gib, f"{listed(sample)} measured, {tokens:,} tokens")
    names = ["exact racing of all"] * len(everyone)
    names += [f"of the {n} with least trace damage on {traces} items" for n, traces in proposed]
    for name, one in zip(names, ours, strict=True):
        of = f"{one['answers']} of {len(layers) * asked.items} answers"
        row(name, one["cpu"], total, one["gib"], f"layer {one['chosen']} of {listed(one['layers'])} chosen, {of}")


if __name__ == "__main__":
    main()
