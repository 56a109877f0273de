"""Assign rows of a data set to selection items or report items."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from layercut.evidence.splits import half_of
from layercut.tasks.base import Sample, Split

HALVES = "halves by content hash"


class SplitNames(NamedTuple):
    """Sources of the two kinds of items."""

    selection: str
    report: str

    @property
    def are_halves(self) -> bool:
        """True if both come from one split of the data set, which is halved by the hash of each item."""
        return self.selection == self.report

    def describe(self) -> str:
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


def first_of(
    split: Split, names: SplitNames, read: Callable[[str], Iterable[Sample]], limit: int | None
) -> list[Sample]:
    """The first samples of one kind, in the order of the data set; selection and report items share none.

    Args:
        split: which kind; ``full`` for all items of the split that report items come from.
        names: which split of the data set holds which kind.
        read: from a split of the data set, its samples; no more are taken than needed.
    """
    if split == "full" or (split == "report" and not names.are_halves):
        chosen = unique_ids(read(names.report))
    elif names.are_halves:
        # Twins fall on the same side, because their first id decides.
        chosen = (twin for twin in unique_ids(read(names.report)) if half_of(twin.content_id) == split)
    else:
        reported = {sample.id for sample in read(names.report)}
        chosen = (twin for twin in unique_ids(read(names.selection)) if twin.content_id not in reported)
    return [twin.sample for twin in islice(chosen, limit)]


def balanced(samples: Sequence[Sample], labels: Sequence[str], seed: int = 0) -> list[Sample]:
    """Samples in an order of which every beginning holds each label in its share, drawn by hash.

    The order of the file has no effect. The samples of a label are spread evenly over the whole, in the order of the
    hash of their ids: the j-th of m has its place at (j + u) / m, with u from 0 to 1 by another hash.
    """
    places: dict[str, float] = {}
    count, seen = Counter(labels), Counter[str]()
    drawn = sorted(zip(samples, labels, strict=True), key=lambda one: _unit(f"{seed} order {one[0].id}"))
    for sample, label in drawn:
        places[sample.id] = (seen[label] + _unit(f"{seed} place {sample.id}")) / count[label]
        seen[label] += 1
    return sorted(samples, key=lambda one: (places[one.id], one.id))


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


class Twin(NamedTuple):
    """A sample with an id of its own, and the id that its content alone gives."""

    sample: Sample
    content_id: str


def unique_ids(samples: Iterable[Sample]) -> Iterator[Twin]:
    """Give the second and later of samples with equal content an id of their own (``...-2``).

    Real benchmarks hold exact duplicates, and dropping them would change their scores.
    """
    seen: Counter[str] = Counter()
    for sample in samples:
        seen[sample.id] += 1
        number = seen[sample.id]
        yield Twin(sample if number == 1 else replace(sample, id=f"{sample.id}-{number}"), sample.id)
