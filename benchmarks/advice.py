"""How often advice is wrong, and how deep it finds, by the rules that test depths in a fixed order.

    python benchmarks/advice.py

Models are simulated: an original one and 24 pruned ones (4 paths of 6 depths) answer the same items, and their answers
are correlated. Each rule sees the same answers and names the deepest plan that it finds to keep 90 % of the score above
chance. A recommendation is wrong where the plan's true retention is lower on any task, and right otherwise. Layers: how
many a right recommendation removes, on average over all studies, with 0 where there is none.

- ``paths``: what the report of a study does. Each path in order of depth, the four of them sharing the 5 %.
- ``one path``: what ``layercut prune`` does. The first path alone, at 5 %.
- ``weighed``: what ``layercut prune --versus`` does with other models. The first path and three
  models of their own (the third plan of each other path, said to be smaller than all plans) share the 5 %; the answer
  is a smallest one that passed, else the deepest plan.
- ``named later``: the same, where the first path had 5 % before and the models share another 5 %: 10 % are promised.

Curves are the true retention by depth on the first task. ``edge`` is the hardest: it falls to 89.9 % and stays there,
while every other task keeps everything. Bounds are those of ``layercut.evidence``, computed from shared tables of gamma
draws; the benchmark first checks them against the package's own verdicts, and fails if they disagree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

from layercut.evidence.fixed_sequence import DepthEvidence, fixed_sequences
from layercut.evidence.intervals import proportion_interval
from layercut.evidence.paired import PairedItems, TaskRow, compare_paired

KEEP, ERROR = 0.9, 0.05
NUM_PATHS, NUM_DEPTHS = 4, 6
NUM_ITEMS = (50, 100, 200, 500)
CURVES = {
    "gentle": (1.0, 0.99, 0.98, 0.96, 0.93, 0.86),
    "cliff": (1.0, 1.0, 0.99, 0.6, 0.4, 0.3),
    "edge": (1.0, 1.0, 0.899, 0.899, 0.899, 0.899),
    "all at the edge": (0.899,) * 6,
    "up and down": (0.95, 0.899, 1.0, 0.899, 1.0, 0.899),
}
TASKS = {
    "one task": ((0.7, 0.02),),
    "three tasks": ((0.7, 0.02), (0.9, 0.25), (0.45, 0.05)),
    "near chance": ((0.32, 0.25),),
}
"""True score of the original model, and chance."""
PROMISED = {"paths": ERROR, "one path": ERROR, "weighed": ERROR, "named later": 2 * ERROR}
CORRELATION = 0.8
"""Of the latent ease of an item for two models; of right answers it is about 0.6."""
NESTED = 0.9
"""Of what is left of it for a plan and the next deeper one of its path, which removes the same layers and one more."""
NUM_DRAWS = 10_000


class Setting(NamedTuple):
    curve: str
    tasks: str
    n: int


class Bound:
    """Whether a lower bound reaches ``KEEP``: Gaffke's, as in ``layercut.evidence.bounds``, from tables of draws."""

    def __init__(self, most: int, rng: np.random.Generator) -> None:
        # Sums of ever more exponentials are gamma draws of every whole shape.
        steps = rng.standard_exponential((4, most + 1, NUM_DRAWS), dtype=np.float32)
        steps[:, 0] = 0
        self.table = np.cumsum(steps, axis=1, out=steps)
        self.added = rng.standard_exponential(NUM_DRAWS, dtype=np.float32)
        self.known: dict[tuple[int, ...], float] = {}

    def share_against(self, counts: tuple[int, ...], chance: float) -> float:
        """Share of draws that speak against the plan; the bound at an error rate passes where this is not above it."""
        key = (*counts, round(1000 * chance))
        if key not in self.known:
            both, lost, gained, neither = (self.table[place, count] for place, count in enumerate(counts))
            lost = lost + self.added
            total = both + lost + gained + neither
            uncut, cut = (both + lost) / total - chance, (both + gained) / total - chance
            self.known[key] = float(((uncut <= 0) | (cut < KEEP * uncut)).mean())
        return self.known[key]


class Drawn(NamedTuple):
    """One simulated study: counts of both, lost, gained, neither by task and plan, and which tasks are judged."""

    counts: np.ndarray
    """(tasks, plans, 4)"""
    judged: list[int]


def draw(setting: Setting, rng: np.random.Generator) -> Drawn:
    """Answers of all models to n items."""
    n, tasks = setting.n, TASKS[setting.tasks]
    counts = np.empty((len(tasks), NUM_PATHS * NUM_DEPTHS, 4), dtype=int)
    for task, (uncut, chance) in enumerate(tasks):
        ease = rng.standard_normal(n)
        own = rng.standard_normal((NUM_PATHS, NUM_DEPTHS, n))
        for depth in range(1, NUM_DEPTHS):
            own[:, depth] = NESTED * own[:, depth - 1] + np.sqrt(1 - NESTED**2) * own[:, depth]
        own = own.reshape(NUM_PATHS * NUM_DEPTHS, n)
        first = ease < norm.ppf(uncut)
        cut = chance + truths(setting, task) * (uncut - chance)
        latent = CORRELATION * ease + np.sqrt(1 - CORRELATION**2) * own
        right = latent < norm.ppf(cut)[:, None]
        both = (first & right, first & ~right, ~first & right, ~first & ~right)
        counts[task] = np.stack([outcome.sum(axis=1) for outcome in both], axis=1)
    return Drawn(counts, [task for task, (_, chance) in enumerate(tasks) if _low(counts[task, 0]) > chance])


def _low(counts: Sequence[int]) -> float:
    low = proportion_interval(int(counts[0] + counts[1]), int(sum(counts))).low
    assert low is not None
    return low


def truths(setting: Setting, task: int) -> np.ndarray:
    """True retention of each plan: the curve, a little lower on each further path. At the edge only the first task
    loses anything, on all paths alike."""
    curve = np.array(CURVES[setting.curve])
    if "edge" in setting.curve or setting.curve == "up and down":
        return np.tile(curve if task == 0 else np.ones(NUM_DEPTHS), NUM_PATHS)
    return np.concatenate([curve - 0.02 * path for path in range(NUM_PATHS)])


def passes(bound: Bound, drawn: Drawn, setting: Setting, plan: int, error: float) -> bool:
    """Whether a plan passes on every task that can be judged."""
    return bool(drawn.judged) and all(
        bound.share_against(tuple(drawn.counts[task, plan]), TASKS[setting.tasks][task][1]) <= error
        for task in drawn.judged
    )


def plans_of(path: int) -> list[int]:
    return [path * NUM_DEPTHS + depth for depth in range(NUM_DEPTHS)]


PATHS = [plans_of(path) for path in range(NUM_PATHS)]
OTHERS = [[path[2]] for path in PATHS[1:]]


def walk(bound: Bound, drawn: Drawn, setting: Setting, plans: Sequence[int], error: float) -> int:
    """How many plans pass in a row."""
    found = 0
    while found < len(plans) and passes(bound, drawn, setting, plans[found], error):
        found += 1
    return found


def shared(bound: Bound, drawn: Drawn, setting: Setting, paths: Sequence[Sequence[int]]) -> list[int]:
    """How many plans of each path pass, where all share 5 %; one on which all passed hands its part on."""
    found = [0] * len(paths)
    active = list(range(len(paths)))
    while active:
        for path in active:
            found[path] = walk(bound, drawn, setting, paths[path], ERROR / len(active))
        left = [path for path in active if found[path] < len(paths[path])]
        if len(left) == len(active):
            break
        active = left
    return found


def by_paths(bound: Bound, drawn: Drawn, setting: Setting) -> int | None:
    """The deepest plan of four sequences that share 5 %."""
    depths = shared(bound, drawn, setting, PATHS)
    path = max(range(NUM_PATHS), key=lambda one: depths[one])
    return PATHS[path][depths[path] - 1] if depths[path] else None


def weighed(bound: Bound, drawn: Drawn, setting: Setting, *, later: bool) -> int | None:
    """A smallest other model that passed, else the deepest plan of the first path."""
    if later:
        found = [walk(bound, drawn, setting, PATHS[0], ERROR), *shared(bound, drawn, setting, OTHERS)]
    else:
        found = shared(bound, drawn, setting, [PATHS[0], *OTHERS])
    passed = [other[0] for other, number in zip(OTHERS, found[1:], strict=True) if number]
    return passed[-1] if passed else PATHS[0][found[0] - 1] if found[0] else None


def recommended(rule: str, bound: Bound, drawn: Drawn, setting: Setting) -> int | None:
    """The plan that a rule names."""
    if rule == "paths":
        return by_paths(bound, drawn, setting)
    if rule in ("weighed", "named later"):
        return weighed(bound, drawn, setting, later=rule == "named later")
    depth = walk(bound, drawn, setting, PATHS[0], ERROR)
    return depth - 1 if depth else None


class Tally:
    """What one rule came to."""

    def __init__(self) -> None:
        self.times = self.wrong = self.right = self.depths = 0

    def add(self, plan: int | None, is_wrong: bool) -> None:
        self.times += 1
        if plan is not None:
            self.wrong += is_wrong
            self.right += not is_wrong
            self.depths += 0 if is_wrong else plan % NUM_DEPTHS + 1

    def __iadd__(self, other: Tally) -> Tally:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def show(self) -> str:
        low, high = binomtest(self.wrong, self.times).proportion_ci(method="exact")
        depth = f"{self.depths / self.times:.2f}"
        wrong = f"{100 * self.wrong / self.times:4.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{wrong:>17} | {100 * self.right / self.times:5.0f} | {depth:>6}"


def simulate(setting: Setting, times: int, bound: Bound, seed: int) -> dict[str, Tally]:
    """Every rule on the same studies."""
    rng = np.random.default_rng([seed, *f"{setting}".encode()])
    lowest = np.min([truths(setting, task) for task in range(len(TASKS[setting.tasks]))], axis=0)
    tallies = {rule: Tally() for rule in PROMISED}
    for _ in range(times):
        drawn = draw(setting, rng)
        for rule in PROMISED:
            plan = recommended(rule, bound, drawn, setting)
            tallies[rule].add(plan, plan is not None and bool(lowest[plan] < KEEP))
    return tallies


def check(bound: Bound, times: int, seed: int) -> tuple[int, int]:
    """In how many studies, of how many, these tables and ``fixed_sequences`` find the same depth."""
    rng = np.random.default_rng(seed)
    same = 0
    for index in range(times):
        setting = Setting(list(CURVES)[index % len(CURVES)], list(TASKS)[index % len(TASKS)], NUM_ITEMS[index % 2])
        drawn = draw(setting, rng)
        paths = {
            str(path): [
                DepthEvidence(depth + 1, f"{path}-{depth}", tuple(rows(setting, drawn, path * NUM_DEPTHS + depth)))
                for depth in range(NUM_DEPTHS)
            ]
            for path in range(NUM_PATHS)
        }
        found = fixed_sequences(paths, KEEP, level=1 - ERROR, num_resamples=4000)
        deepest = max((one.deepest.depth if one.deepest else 0) for one in found.values())
        plan = by_paths(bound, drawn, setting)
        same += deepest == (0 if plan is None else plan % NUM_DEPTHS + 1)
    return same, times


def rows(setting: Setting, drawn: Drawn, plan: int) -> list[TaskRow]:
    """The rows of one plan, as the package takes them."""
    made = []
    for task, (_, chance) in enumerate(TASKS[setting.tasks]):
        both, lost, gained, neither = drawn.counts[task, plan]
        before = [1.0] * (both + lost) + [0.0] * (gained + neither)
        after = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
        made.append(
            TaskRow(
                task=str(task),
                version=1,
                readout="short",
                metric="accuracy",
                chance=chance,
                limit=None,
                seed=0,
                values=compare_paired(before, after, chance=chance, num_resamples=50),
                items=PairedItems(before, after),
            )
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300, help="studies of each setting")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    bound = Bound(max(NUM_ITEMS), np.random.default_rng(given.seed))
    same, of = check(bound, 60, given.seed)
    print(f"tables against layercut.evidence.fixed_sequence: the same depth in {same} of {of} studies")
    if same < 0.9 * of:
        sys.exit("the tables disagree with the package, so what follows would say nothing of it")
    settings = [Setting(curve, tasks, n) for tasks in TASKS for curve in CURVES for n in NUM_ITEMS]
    results = {setting: simulate(setting, given.times, bound, given.seed) for setting in settings}
    print(f"{len(settings)} settings, {given.times} studies each, seed {given.seed}, keep {KEEP:.0%}\n")
    head = f"{'wrong % [95 %]':>17} | {'right':>5} | {'layers':>6}"
    print(f"{'by curve':16} | " + " | ".join(f"{rule:^34}" for rule in PROMISED))
    print(f"{'':16} | " + " | ".join(head for _ in PROMISED))
    for curve in CURVES:
        groups = {rule: Tally() for rule in PROMISED}
        for setting in (setting for setting in settings if setting.curve == curve):
            for rule, tally in results[setting].items():
                groups[rule] += tally
        print(f"{curve:16} | " + " | ".join(groups[rule].show() for rule in PROMISED))
    print()
    failed = False
    print("the setting in which each rule was wrong most often, drawn anew 3,000 times")
    for rule in PROMISED:
        worst = max(settings, key=lambda one: results[one][rule].wrong)
        again = simulate(worst, 3000, bound, given.seed + 1)[rule]
        print(f"{rule:16} | {again.show()} | {worst.curve}, {worst.tasks}, n = {worst.n}")
        failed |= binomtest(again.wrong, again.times, PROMISED[rule], alternative="greater").pvalue < 0.01
    print(f"{time.monotonic() - began:.0f} s")
    if failed:
        sys.exit("a rule is wrong more often than it promises")


if __name__ == "__main__":
    main()
