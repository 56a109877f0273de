"""Racing: score candidates item by item, and stop each one as soon as it cannot win any more.

A candidate's value is a monotone function of its items' metrics, which lie in [0, 1]. Counting the remaining items as 1
gives an upper bound, as 0 a lower one. Both use the same float operations as the final value, each of them monotone, so
the bounds hold to the last bit. A candidate is out when another one's lower bound exceeds its upper bound, or equals it
and that one wins ties. The winner and its value equal those of a round without racing. After Maron and Moore,
"Hoeffding races", NIPS 1993.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layercut.progress import OnProgress

CHUNKS_AT_ONCE = 4
"""Chunks that are asked together where nothing is decided between them: a step of decoding costs little more with more
rows."""


class Standing(NamedTuple):
    """The result of one candidate."""

    value: float | None
    upper_bound: float  # an upper bound of the value; the value itself if it is known
    num_answered: int  # items of its chunks. The last chunk counts in full even if the candidate stopped midway.


class Standings(NamedTuple):
    """The outcome of a round."""

    candidates: list[Standing]
    num_items: int  # items of a candidate that is not stopped; 0 where nothing is counted

    @classmethod
    def of(cls, values: Sequence[float]) -> Standings:
        """The values of all; one that is not finite is lower than any other."""
        known = [value if math.isfinite(value) else -math.inf for value in values]
        return cls([Standing(value, value, 0) for value in known], 0)


Learn = Callable[[int, int, Sequence[float]], None]  # takes a task, a place and metrics
Ask = Callable[[Sequence[int], Sequence[int], Sequence[int], Callable[[int], bool], Learn], None]
"""Called with (group, chunks, places, wanted, learn), it has the candidates at these places answer these chunks of a
group of tasks, of those that each task has. It calls ``learn`` with known records and then with new ones, as far as
``wanted``."""


def run_race_round(
    ask: Ask,
    num_candidates: int,
    sizes: Sequence[Sequence[int]],
    combine: Callable[[Sequence[float]], float],
    *,
    groups: Sequence[Sequence[int]] | None = None,
    together: Sequence[Sequence[int]] | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Standings:
    """Run one round; of equals the later place wins.

    All candidates answer the first chunk of every task, then the best so far is completed, which gives a value to beat,
    and the others continue chunk by chunk. One that starts its last chunk finishes it, so the result depends neither on
    the answers' order nor on a kill. ``sizes`` are the items of each chunk of each task; ``combine`` gives a monotone
    value from a mean metric per task; ``groups`` are tasks that are always asked together, and ``together`` joins them
    where nothing is decided in between.
    """
    field = _Field(num_candidates, [sum(of_task) for of_task in sizes], combine)

    def learn(task: int, place: int, metrics: Sequence[float]) -> None:
        field.learn(task, place, metrics)
        on_progress(*field.progress())

    def run(group: Sequence[int], chunks: Sequence[int], places: Sequence[int]) -> None:
        running = [place for place in places if not field.is_out(place)]
        if not running:
            return
        num_items = sum(sizes[task][chunk] for task in group for chunk in chunks if chunk < len(sizes[task]))
        last = [place for place in running if field.num_left(place) == num_items]
        ask(group, chunks, running, lambda place: place in last or not field.is_out(place), learn)
        field.close(running, num_items)

    everyone = range(num_candidates)
    groups = [[task] for task in range(len(sizes))] if groups is None else groups
    together = groups if together is None else together
    for group in together:
        run(group, [0], everyone)
    leader = field.leader()
    for group in together:
        chunks = range(1, max(len(sizes[task]) for task in group))
        for start in range(0, len(chunks), CHUNKS_AT_ONCE):
            run(group, chunks[start : start + CHUNKS_AT_ONCE], [leader])
    others = [place for place in everyone if place != leader]
    for chunk in range(1, max(map(len, sizes))):
        for group in groups:
            if chunk < len(sizes[group[0]]):
                run(group, [chunk], others)
    on_progress(*field.progress())
    return Standings([field.standing(place) for place in everyone], field.num_items)


@dataclass
class _Runner:
    """One candidate's answers and bounds."""

    metrics: list[list[float]]
    reach: float  # the upper bound
    sure: float  # the lower bound
    closed_reach: float  # the upper bound after the last chunk before it was eliminated
    num_asked: int = 0
    out_at: float | None = None  # the reported bound of a stopped candidate


class _Field:
    """All candidates of a round."""

    def __init__(self, num: int, sizes: Sequence[int], combine: Callable[[Sequence[float]], float]) -> None:
        self._sizes, self._combine = sizes, combine
        self.num_items = sum(sizes)
        reach, sure = combine([1.0] * len(sizes)), combine([0.0] * len(sizes))
        self._runners = [_Runner([[] for _ in sizes], reach, sure, reach) for _ in range(num)]
        self._best = (sure, num - 1)  # the best sure value, and whose it is

    def is_out(self, place: int) -> bool:
        return (self._runners[place].reach, place) < self._best

    def num_left(self, place: int) -> int:
        return self.num_items - self._runners[place].num_asked

    def progress(self) -> tuple[int, int]:
        """Number of answers, and the final number if no other candidate stops."""
        answered = [sum(map(len, runner.metrics)) for runner in self._runners]
        left = (self.num_items - count for place, count in enumerate(answered) if not self.is_out(place))
        return sum(answered), sum(answered) + sum(left)

    def learn(self, task: int, place: int, metrics: Sequence[float]) -> None:
        runner = self._runners[place]
        runner.metrics[task].extend(metrics)
        pairs = list(zip(runner.metrics, self._sizes, strict=True))
        runner.sure = self._combine([math.fsum(values) / size for values, size in pairs])
        runner.reach = self._combine(
            [math.fsum([*values, *[1.0] * (size - len(values))]) / size for values, size in pairs]
        )
        self._best = max(self._best, (runner.sure, place))

    def close(self, places: Sequence[int], num_items: int) -> None:
        for place in places:
            runner = self._runners[place]
            runner.num_asked += num_items
            if not self.is_out(place):
                runner.closed_reach = runner.reach
        for place, runner in enumerate(self._runners):
            if runner.out_at is None and self.is_out(place):
                # Not the current upper bound, which depends on when the engine stopped within the chunk.
                runner.out_at = min(runner.closed_reach, self._best[0])

    def leader(self) -> int:
        """The place with the best mean so far, of those that can still win."""
        means = {
            place: self._combine([math.fsum(values) / len(values) for values in runner.metrics])
            for place, runner in enumerate(self._runners)
            if not self.is_out(place)
        }
        return max(means, key=lambda place: (means[place], place))

    def standing(self, place: int) -> Standing:
        runner = self._runners[place]
        if not self.num_left(place):
            return Standing(runner.sure, runner.sure, runner.num_asked)
        assert runner.out_at is not None, "a candidate that was never stopped has answered all"
        return Standing(None, runner.out_at, runner.num_asked)
