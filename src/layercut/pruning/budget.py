"""How many items a run of prune needs, what they can show, and how many fit into the time.

Every item is answered by both models, see ``layercut.evidence.sample_size``. Time is given out by the seconds that the
original model takes for an item of each task.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.stats import norm

from layercut.evidence.sample_size import expect, items_needed

SELECTION_ITEMS = 100
"""Of each task, to choose layers by; arXiv:2602.01997 takes as many."""
FEWEST, MOST = 16, 500
"""Items of a task that a time is turned into, and report items where neither time nor items are given."""
FIRST = 0.1
"""Share of a time that may be spent on a larger batch of first answers, which tells the speed."""
CANDIDATES = 4
"""Layers that are compared by task scores at each depth."""
RACED = 0.6
"""Share of the candidates' answers that a race asks for, more or less."""
PATH, CONFIRM = 0.35, 0.35
"""Shares of the time for the search, and for the report items at least. The rest is for loading, healing, the
checkpoint and the speed."""
POWER, ERROR = 0.8, 0.05


class Yardstick(NamedTuple):
    """The original model on a task."""

    label: str
    score: float
    chance: float


def must_keep(task: Yardstick, num_items: int, keep: float) -> float:
    """The share that a plan has to keep in truth to pass ``keep`` with a probability of 80 %.

    By the delta method, at the correlation that ``sample_size`` assumes.
    """
    return keep + _reach(task, keep) / math.sqrt(num_items)


def items_for(task: Yardstick, keep: float) -> int:
    """Report items by which a plan that loses half of what may be lost passes with a probability of 80 %."""
    loss = max((1 - keep) / 2, 0.01)
    return math.ceil((_reach(task, keep) / loss) ** 2)


def resolution(tasks: list[Yardstick], num_items: dict[str, int], keep: float) -> str:
    """What this many report items can show, in a sentence."""
    hardest = max(tasks, key=lambda one: must_keep(one, num_items[one.label], keep))
    n, share = num_items[hardest.label], must_keep(hardest, num_items[hardest.label], keep)
    text = (
        f"with {n} report items a plan passes {keep:.0%} four times in five if it keeps {share:.0%} of {hardest.label}"
    )
    if share > 1:
        text += "; that is more than all, so a plan passes only by luck: give more `items` or `time`, or a lower `keep`"
    return text


def selection_items_in(seconds: float, per_item: float, max_depth: int) -> int:
    """Selection items of each task for which a search of ``max_depth`` depths fits into its share of the time.

    Args:
        seconds: in all.
        per_item: seconds that the original model takes for one item of every task.
        max_depth: depths that are searched.
    """
    each = per_item * max_depth * (CANDIDATES * RACED + 1)
    return _between(PATH * seconds / max(each, 1e-9), SELECTION_ITEMS)


def report_items_in(seconds: float, per_item: float, num_models: int) -> int:
    """Report items of each task that ``num_models`` models can answer in a time."""
    return _between(seconds / max(per_item * num_models, 1e-9), 10 * MOST)


def _reach(task: Yardstick, keep: float) -> float:
    """Distance that a plan has to keep above ``keep``, times the root of the number of items."""
    score = min(max(task.score, task.chance + 0.01), 0.99)
    expected = expect(baseline=score, retention=min((1 + keep) / 2, 0.99), chance=task.chance)
    width = 0.1
    pinned = items_needed(expected, alpha=2 * ERROR, half_width=width).to_pin_the_retention
    power = 1 + float(norm.ppf(POWER)) / float(norm.ppf(1 - ERROR))
    return width * math.sqrt(pinned) * power


def _between(number: float, most: int) -> int:
    return int(min(max(number, FEWEST), most))
