"""How often a plan passes, promised and true: the line that `layercut prune` prints before it asks report items.

    python benchmarks/power.py

A plan that keeps everything, and one that keeps the share that the line names, answer drawn items; the original model
solves 60 % of them. ``true`` is how often the rule of the fixed sequence (its own bound, resampled) passes them. The
correlation of both models' right answers is known in the left half of the table. In the right half it is what 100
selection items show, as in a run: the mean of the promises and their middle 90 %.
"""

from __future__ import annotations

import math

import numpy as np

from layercut.evidence.bounds import retention_bounds
from layercut.evidence.sample_size import outcomes_of
from layercut.pruning.budget import Yardstick, chance_to_pass, must_keep
from layercut.pruning.path import correlation_of

SCORE, KEEP, ERROR, RUNS, SELECTION = 0.6, 0.9, 0.05, 400, 100
PAIRS = np.array([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])


def drawn(kept: float, correlation: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Answers of both models to N items, (N, 2)."""
    shares = np.clip(outcomes_of(SCORE, kept * SCORE, correlation), 0, None)
    return PAIRS[rng.choice(4, size=n, p=shares / shares.sum())]


def passed(kept: float, correlation: float, n: int) -> float:
    """How often the rule passes such a plan."""
    rng, found = np.random.default_rng(1), 0
    for seed in range(RUNS):
        items = drawn(kept, correlation, n, rng)
        low = retention_bounds(
            items[:, 0], items[:, 1], chance=0.0, low_error=ERROR, high_error=ERROR, seed=seed, num_resamples=2000
        ).low
        found += low is not None and low >= KEEP
    return found / RUNS


def main() -> None:
    """Print the table."""
    error = math.sqrt(0.25 / RUNS)
    print(f"original model {SCORE:.0%}, keep {KEEP:.0%}, {RUNS} runs a cell, standard error up to {error:.3f}")
    head = ("n", "corr.", "plan keeps", "promised", "true", f"promised by {SELECTION} selection items")
    print("{:>5} {:>6} {:>11} {:>9} {:>6} {:>32}".format(*head))
    for n in (50, 100, 200, 400):
        for correlation in (0.5, 0.7, 0.9, 0.97):
            task = Yardstick("task", SCORE, 0.0, correlation)
            share = must_keep(task, n, KEEP)
            for kept in (1.0, *(() if share is None or share >= 0.999 else (share,))):
                rng, promises = np.random.default_rng(2), []
                for _ in range(100):
                    items = drawn(kept, correlation, SELECTION, rng)
                    shown = correlation_of(list(items[:, 0]), list(items[:, 1]))
                    promises.append(chance_to_pass(task._replace(correlation=shown), n, KEEP, kept))
                low, high = np.quantile(promises, [0.05, 0.95])
                said = f"{np.mean(promises):.2f} [{low:.2f}, {high:.2f}]"
                promised, true = chance_to_pass(task, n, KEEP, kept), passed(kept, correlation, n)
                print(f"{n:>5} {correlation:>6} {kept:>11.1%} {promised:>9.2f} {true:>6.2f} {said:>32}")


if __name__ == "__main__":
    main()
