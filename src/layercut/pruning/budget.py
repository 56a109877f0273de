"""The number of items that a run of prune needs, their power, and the number that fits into the time.

Every item is answered by both models. What items can show is simulated with the rule that decides, see
``layercut.evidence.sample_size``. Time is given out by the seconds that the original model takes for an item of each
task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from layercut.evidence.sample_size import CORRELATION, MANY, POWER, Differences, decides, least, outcomes_of
from layercut.selection.answers import ObjectiveTask
from layercut.tasks import load_task
from layercut.tasks.builtin.checked import CODE, GENERAL

SELECTION_ITEMS = 100  # items of each task to choose layers by; arXiv:2602.01997 takes as many
FEWEST, MOST = 16, 500
"""Items of a task that a time is turned into, and report items where neither time nor items are given."""
FIRST = 0.1  # share of a time that may be spent on a larger batch of first answers, which tells the speed
CANDIDATES = 4  # layers that are compared by task scores at each depth
RACED = 0.6  # share of the candidates' answers that a race asks for, more or less
PATH, CONFIRM = 0.35, 0.35
"""Shares of the time for the search, and for the report items at least. The rest is for loading, healing, the
checkpoint and the speed."""
ERROR = 0.05
HEALING_ITEMS, FEWEST_FRESH = 48, 24
"""Items of each task that healing learns from at most, and how many there must be beside those that judge."""
REQUESTS = 12  # general requests of each list


def general_tasks() -> tuple[ObjectiveTask, ...]:
    """General requests, which count with the goal's tasks where channels are chosen and plans are healed."""
    return tuple(ObjectiveTask(task=load_task(name), readout="short", limit=REQUESTS) for name in (GENERAL, CODE))


class Yardstick(NamedTuple):
    """The original model on a task."""

    label: str
    score: float
    chance: float
    correlation: float = CORRELATION
    """Correlation of both models' right answers; assumed until a plan's answers to selection items show it."""


def chance_to_pass(task: Yardstick, num_items: int, keep: float, kept: float = 1.0) -> float:
    """Probability that a plan which keeps ``kept`` in truth passes ``keep``, by the rule's own bound."""
    score = min(max(task.score, task.chance + 0.01), 0.99)
    cut = task.chance + kept * (score - task.chance)
    outcomes = outcomes_of(score, cut, task.correlation)
    return decides(Differences.expected(outcomes, keep=keep, chance=task.chance), num_items, ERROR)


def must_keep(task: Yardstick, num_items: int, keep: float) -> float | None:
    """The share that a plan has to keep in truth to pass ``keep`` with a probability of 80 %.

    None where even a plan that loses nothing passes less often.
    """
    lowest = round(1000 * keep)
    share = least(lambda share: chance_to_pass(task, num_items, keep, share / 1000) >= POWER, lowest, 1000, 1000)
    return None if share is None else share / 1000


def items_for(task: Yardstick, keep: float, kept: float | None = None, most: int = MOST) -> int | None:
    """Report items by which a plan passes with a probability of 80 %, up to ``most``.

    Args:
        keep: share that is asked for.
        kept: share that the plan keeps in truth; by default it loses half of what may be lost.
        most: None is returned where even this many do not suffice.
    """
    share = (1 + keep) / 2 if kept is None else kept
    return least(lambda number: chance_to_pass(task, number, keep, share) >= POWER, FEWEST, most)


def resolution(tasks: Sequence[Yardstick], num_items: Mapping[str, int], keep: float) -> tuple[str, bool]:
    """The power of this many report items on the task on which a plan passes least often, in words; and whether a plan
    that loses nothing passes with a probability of at least 80 %.
    """
    hardest = min(tasks, key=lambda task: chance_to_pass(task, num_items[task.label], keep))
    n, share = num_items[hardest.label], must_keep(hardest, num_items[hardest.label], keep)
    if share is not None:
        text = f"with {n} report items of {hardest.label}, a plan that keeps {share:.0%} or more passes {keep:.0%}"
        return f"{text} in at least 4 of 5 runs", True
    often = chance_to_pass(hardest, n, keep)
    needed = items_for(hardest, keep, 1.0, most=MANY * n)
    text = f"{n} report items of {hardest.label} are too few for {keep:.0%}: a plan that loses nothing passes in about"
    text += f" {max(1, round(10 * often))} of 10 runs"
    return f"{text}, with {needed:,} items in 8 of 10" if needed else text, False


def selection_items_in(seconds: float, per_item: float, max_depth: int) -> int:
    """Selection items of each task for which a search of ``max_depth`` depths fits into its share of the time.

    Args:
        per_item: seconds that the original model takes for one item of every task.
    """
    each = per_item * max_depth * (CANDIDATES * RACED + 1)
    return int(min(max(PATH * seconds / max(each, 1e-9), FEWEST), SELECTION_ITEMS))


def report_items_in(seconds: float, per_item: float, num_models: int) -> int:
    """Report items of each task that ``num_models`` models can answer in a time."""
    return int(min(max(seconds / max(per_item * num_models, 1e-9), FEWEST), 10 * MOST))
