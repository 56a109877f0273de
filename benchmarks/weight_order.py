"""Products of few rows with weights of each size: torch's own, oneDNN on the same weights, and in oneDNN's order.

    python benchmarks/weight_order.py --dtype float32 --shapes 192x576,576x576,1536x576,1536x1536 --rows 1,8,24,64

Each product takes the next of as many weights as make ``--megabytes``, as the layers of a model do, so that none is in
the processor's cache. The three ways run by turns. Ratios are torch's time over the other's: the median over turns,
with a 95 % interval of a bootstrap over the turns (seed 0).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.stats import bootstrap

from layercut.engine.products import in_order, one_dnn

Way = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def seconds(way: Way, states: torch.Tensor, weights: list[torch.Tensor]) -> float:
    """Of a product, over all the weights once."""
    begun = time.perf_counter()
    for weight in weights:
        way(states, weight)
    return (time.perf_counter() - begun) / len(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shapes", default="192x576,576x576,1536x576,576x1536,1536x1536")
    parser.add_argument("--rows", default="1,8,24,64")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    dtype = getattr(torch, asked.dtype)
    print(f"{asked.dtype}, {asked.threads} threads, {asked.turns} turns, seed 0\n")
    print(
        "| outputs x inputs | rows | torch, us | oneDNN, x faster | in its order, x faster |\n|---|---:|---:|---:|---:|"
    )
    for shape in asked.shapes.split(","):
        outputs, inputs = map(int, shape.split("x"))
        count = max(2, asked.megabytes * 10**6 // (outputs * inputs * torch.finfo(dtype).bits // 8))
        weights = [torch.randn(outputs, inputs, dtype=dtype) for _ in range(count)]
        ways: list[tuple[Way, list[torch.Tensor]]] = [
            (torch.nn.functional.linear, weights),
            (partial(one_dnn, bias=None), weights),
            (partial(one_dnn, bias=None), [in_order(one) for one in weights]),
        ]
        for rows in map(int, asked.rows.split(",")):
            states = torch.randn(1, rows, inputs, dtype=dtype)
            times: list[list[float]] = [[], [], []]
            for turn in range(asked.turns + 1):
                for first in range(len(ways)):
                    place = (first + turn) % len(ways)
                    took = seconds(ways[place][0], states, ways[place][1])
                    times[place] += [took] if turn else []
            usual = np.array(times[0])
            cells = []
            for other in times[1:]:
                ratio = usual / np.array(other)
                ends = bootstrap((ratio,), np.median, rng=np.random.default_rng(0)).confidence_interval
                cells.append(f"{np.median(ratio):.2f} [{ends.low:.2f}, {ends.high:.2f}]")
            print(f"| {shape} | {rows} | {1e6 * np.median(usual):.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
