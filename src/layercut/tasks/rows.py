"""Samples from the rows of a data set: which are selection items and which report items, and the tasks made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from layercut.engine.base import GenerationRequest
from layercut.errors import InputError
from layercut.evidence.splits import half_of
from layercut.tasks.base import Sample, Split, Task
from layercut.tasks.data_files import DataRow, DataSet, read_local
from layercut.tasks.hub import read_hub

HALVES = "halves by content hash"


class CompletionForm(NamedTuple):
    """A problem as plain text, which a base model continues."""

    prompt: Callable[[Sample], str]
    stop: tuple[str, ...]
    described: Mapping[str, Any]  # for the run's settings


@dataclass(frozen=True, kw_only=True)
class RowsTask(Task):
    """Base class of tasks whose samples come from rows of a data set, on the hub or a local copy."""

    hub_splits: ClassVar[tuple[str, ...]] = ()  # the splits that are fetched; all if empty
    selection: ClassVar[tuple[str, ...]] = ("train", "validation")
    """Splits that selection items come from, the first one that is there."""

    name: str
    version: int
    dataset: str  # its name on the hub
    config: str | None = None  # which configuration of it
    published_as: str | None = None  # name, without its ending, of the file in which the benchmark is published
    sample: Callable[[DataRow], Sample]  # from a row to the sample that it holds
    data: str | None = None
    """A local file, or a folder with split files or with the published one, in place of the hub's data set."""
    max_new_tokens: int  # longest answer
    completion: Callable[[], CompletionForm] | None = None
    """Prompt and stop strings for base models, in place of the chat format."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"{self.name}: max_new_tokens {self.max_new_tokens} is too small; use 1 or more.")

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples; a local file counts by its content, not by its place."""
        return {
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
            "data": self._rows.sha256,
            "splits": self._split_names.describe(),
            **({} if self._form is None else self._form.described),
        }

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set."""
        rows = self._rows.splits
        return first_of(split, self._split_names, lambda name: map(self.sample, rows[name]), limit)

    def asked_to_continue(self, sample: Sample) -> GenerationRequest | None:
        """The request in the completion form; None where the task is asked in the chat format."""
        if self._form is None:
            return None
        text, stop = self._form.prompt(sample), self._form.stop
        return GenerationRequest(id=sample.id, prompt=text, max_new_tokens=self.max_new_tokens, stop=stop)

    @cached_property
    def _form(self) -> CompletionForm | None:
        return None if self.completion is None else self.completion()

    @cached_property
    def _rows(self) -> DataSet:
        if self.data is not None:
            return read_local(self.data, self.published_as)
        return read_hub(self.name, self.dataset, self.config, splits=self.hub_splits)

    @cached_property
    def _split_names(self) -> SplitNames:
        return choose_splits(self._rows.splits, selection=self.selection)


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


def choose_splits(available: Collection[str], *, selection: Sequence[str]) -> SplitNames:
    """Report items come from the test split, else from validation; selection items from the first of ``selection`` that
    is there. One split alone is halved.

    >>> choose_splits({"train", "test"}, selection=("validation", "train"))
    SplitNames(selection='train', report='test')
    >>> choose_splits({"all"}, selection=("train",))
    SplitNames(selection='all', report='all')
    """
    reported = next((name for name in ("test", "validation") if name in available), None) or min(available)
    selected = next((name for name in selection if name in available and name != reported), reported)
    return SplitNames(selected, reported)


def first_of(
    split: Split, names: SplitNames, read: Callable[[str], Iterable[Sample]], limit: int | None
) -> list[Sample]:
    """The first samples of one kind, in the order of the data set; selection and report items share none.

    The second and later of samples with equal content get an id of their own (``...-2``): real benchmarks hold exact
    duplicates, and dropping them would change their scores.

    Args:
        split: which kind; ``full`` for all items of the split that report items come from.
        names: which split of the data set holds which kind.
        read: from a split of the data set, its samples; no more are taken than needed.
    """
    is_selection = split == "selection"
    reported = {sample.id for sample in read(names.report)} if is_selection and not names.are_halves else set()

    def chosen() -> Iterator[Sample]:
        copies: Counter[str] = Counter()
        for sample in read(names.selection if is_selection else names.report):
            copies[sample.id] += 1
            number = copies[sample.id]
            # Twins fall on the same side, because the id of their content decides.
            in_half = not names.are_halves or split in ("full", half_of(sample.id))
            if in_half and sample.id not in reported:
                yield sample if number == 1 else replace(sample, id=f"{sample.id}-{number}")

    return list(islice(chosen(), limit))
