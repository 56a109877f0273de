"""Which rows of a data set are selection items and which are report items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from layercut.evidence.splits import half_of
from layercut.tasks.base import Sample, Split

HALVES = "halves by content hash"


class SplitNames(NamedTuple):
    """Where the two kinds of items come from."""

    selection: str
    report: str

    @property
    def are_halves(self) -> bool:
        """Whether both come from one split of the data set, which is halved by the hash of each item."""
        return self.selection == self.report

    def describe(self) -> str:
        """For the run's settings."""
        if self.are_halves:
            return f"{self.report}, {HALVES}"
        return f"selection: {self.selection}, report: {self.report}"


def choose_splits(
    available: Collection[str], *, selection: Sequence[str], report: Sequence[str] = ("test", "validation")
) -> SplitNames:
    """The first split that is there of each list of preferences; one split alone is halved.

    >>> choose_splits({"train", "test"}, selection=("validation", "train"))
    SplitNames(selection='train', report='test')
    >>> choose_splits({"all"}, selection=("train",))
    SplitNames(selection='all', report='all')
    """
    reported = next((name for name in report if name in available), None) or min(available)
    selected = next((name for name in selection if name in available and name != reported), reported)
    return SplitNames(selected, reported)


def in_half(samples: Iterable[Sample], split: Split) -> list[Sample]:
    """The samples of one half, in their order. Twins (see told_apart) fall on the same side."""
    return [sample for sample in samples if half_of(sample.id) == split]


def told_apart(samples: Iterable[Sample]) -> list[Sample]:
    """Give the second and later of samples with equal content an id of their own (``...-2``).

    Real benchmarks hold exact duplicates, and dropping them would change their scores.
    """
    seen: Counter[str] = Counter()
    result = []
    for sample in samples:
        seen[sample.id] += 1
        twin = seen[sample.id]
        result.append(sample if twin == 1 else replace(sample, id=f"{sample.id}-{twin}"))
    return result
