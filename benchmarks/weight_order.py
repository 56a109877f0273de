"""Products of few rows with weights of each size: torch's own, oneDNN on the same weights, and in oneDNN's order.

    python benchmarks/weight_order.py --dtype float32 --shapes 192x576,576x576,1536x576,1536x1536 --rows 1,8,24,64

Each product takes the next of as many weights as make ``--megabytes``, as the layers of a model do, so that none is in
the processor's cache. *Reading alone* sums up a weight's bytes as float32. ``--int8`` adds weights of 8 bits by oneDNN,
which are half as many bytes; each product rounds its states to 8 bits too, by one scale for all. The ways run by turns.
Ratios are torch's time over the other's: the median over turns, with a 95 % interval of a bootstrap over the turns
(seed 0).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import bootstrap

from layercut.engine.products import in_order, one_dnn

Way = Callable[[torch.Tensor, Any], torch.Tensor]


class Int8(NamedTuple):
    """A weight of 8 bits in oneDNN's order, a scale for each output."""

    packed: torch.Tensor
    scale_O: torch.Tensor
    zero_O: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> Int8:
        scale_O = weight.float().abs().amax(dim=1) / 127
        rounded = (weight.float() / scale_O[:, None]).round().to(torch.int8)
        return cls(
            torch.ops.onednn.qlinear_prepack(rounded, None), scale_O, torch.zeros(len(weight), dtype=torch.int64)
        )


def product_int8(states: torch.Tensor, weight: Int8) -> torch.Tensor:
    scale = states.abs().max().item() / 127
    rounded = (states / scale).round().add_(128).to(torch.uint8)
    result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        rounded, scale, 128, *weight, None, 1.0, 0, states.dtype, "none", [], ""
    )
    return result


def seconds(way: Way, states: torch.Tensor, weights: Sequence[Any]) -> float:
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
    parser.add_argument("--int8", action="store_true", help="weights and states of 8 bits as well")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    dtype = getattr(torch, asked.dtype)
    print(f"{asked.dtype}, {asked.threads} threads, {asked.turns} turns, seed 0\n")
    names = [f"{name}, x faster" for name in ("oneDNN", "in its order", "reading alone", *["in 8 bits"] * asked.int8)]
    print(f"| outputs x inputs | rows | torch, us | {' | '.join(names)} |\n|---|---:|---:|{'---:|' * len(names)}")
    for shape in asked.shapes.split(","):
        outputs, inputs = map(int, shape.split("x"))
        count = max(2, asked.megabytes * 10**6 // (outputs * inputs * torch.finfo(dtype).bits // 8))
        weights = [torch.randn(outputs, inputs, dtype=dtype) for _ in range(count)]
        ways: list[tuple[Way, Sequence[Any]]] = [
            (torch.nn.functional.linear, weights),
            (partial(one_dnn, bias=None), weights),
            (partial(one_dnn, bias=None), [in_order(one) for one in weights]),
            (lambda _, weight: weight.sum(), [one.view(torch.float32) for one in weights]),
            *([(product_int8, [Int8.of(one) for one in weights])] if asked.int8 else []),
        ]
        for rows in map(int, asked.rows.split(",")):
            states = torch.randn(1, rows, inputs, dtype=dtype)
            times: list[list[float]] = [[] for _ in ways]
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
