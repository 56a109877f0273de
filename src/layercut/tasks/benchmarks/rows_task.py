"""RowsTask: base class of tasks whose samples come from rows of a data set, on the hub or a local copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from layercut.errors import InputError
from layercut.tasks.base import Sample, Split, Task
from layercut.tasks.data_files import DataRow, DataSet, read_local
from layercut.tasks.hub import read_hub
from layercut.tasks.splits import SplitNames, choose_splits, first_of


class RowsTask(Task):
    """The source of the samples of a free-answer task."""

    dataset: str  # its name on the hub
    config: str | None = None  # which configuration of it
    published_as: str | None = None  # name, without its ending, of the file in which the benchmark is published
    hub_splits: ClassVar[tuple[str, ...]] = ()  # the splits that are fetched; all if empty
    selection: ClassVar[tuple[str, ...]] = ("train", "validation")
    """Splits that selection items come from, the first one that is there."""

    name: str
    version: int
    data: str | None
    max_new_tokens: int

    sample: Callable[[DataRow], Sample]  # from a row to the sample that it holds

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
        }

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set."""
        rows = self._rows.splits
        return first_of(split, self._split_names, lambda name: map(self.sample, rows[name]), limit)

    @cached_property
    def _rows(self) -> DataSet:
        if self.data is not None:
            return read_local(self.data, self.published_as)
        return read_hub(self.name, self.dataset, self.config, splits=self.hub_splits)

    @cached_property
    def _split_names(self) -> SplitNames:
        return choose_splits(self._rows.splits, selection=self.selection)
