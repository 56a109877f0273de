"""GSM8K: grade-school word problems, asked without examples in the model's own chat format.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168; data set ``openai/gsm8k``.

A sample problem: "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How
many clips did Natalia sell altogether in April and May?" with the gold answer 72.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layercut.errors import InputError
from layercut.tasks.base import Sample, Split
from layercut.tasks.boxed import BoxedReadouts, last_boxed, same_value
from layercut.tasks.data_files import DataSet, Row, read_hub, read_local, text_field
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import all_numbers, parse_number
from layercut.tasks.splits import SplitNames, choose_splits, first_of

VERSION = 1
"""Raised by any change of the prompt or the grading."""
DATASET = "openai/gsm8k"


@dataclass(frozen=True, kw_only=True)
class Gsm8k(BoxedReadouts):
    """GSM8K read out as a chain of steps; ``short`` and ``gold`` by name.

    Selection items come from ``train`` and report items from ``test``; a single local file is halved.

    Grading: see ``BoxedReadouts``; without a box, ``flexible`` takes the last number of the completion.
    "18", "18.00", "\\$18", "18\\%" and "18 \\text{ dollars}" all answer 18, "1,234" answers 1234, "36/2" answers 18 as
    well.
    """

    data: str | None = None
    """A local file, or a folder with train and test files, in place of the hub's data set."""
    max_new_tokens: int = 512
    """Longest answer."""
    name: str = "gsm8k"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"gsm8k: max_new_tokens {self.max_new_tokens} is too small; use 1 or more.")

    def settings(self) -> Mapping[str, Any]:
        """What decides the samples; a local file counts by its content, not by its place."""
        return {
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
            "data": self._rows.sha256,
            "splits": self._split_names.describe(),
        }

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set."""
        rows = self._rows.splits
        return first_of(split, self._split_names, lambda name: map(_sample, rows[name]), limit)

    def flexible(self, text: str, gold: str) -> tuple[str, bool]:
        """The last number, where nothing is boxed."""
        boxed = last_boxed(text)
        numbers = [] if boxed else all_numbers(text)
        found = str(numbers[-1]) if numbers else ""
        return found, bool(found) and same_value(found, gold)

    @cached_property
    def _rows(self) -> DataSet:
        return read_hub(self.name, DATASET, "main") if self.data is None else read_local(self.data)

    @cached_property
    def _split_names(self) -> SplitNames:
        return choose_splits(self._rows.splits, selection=("train", "validation"))


def gsm8k(*, data: str | None = None, max_new_tokens: int = 512) -> Gsm8k:
    """GSM8K from the hub or from a local copy. Needs a model with a chat template."""
    return Gsm8k(data=data, max_new_tokens=max_new_tokens)


def _sample(row: Row) -> Sample:
    question, solution = text_field(row, "question"), text_field(row, "answer")
    _, mark, gold = solution.rpartition("####")
    value = parse_number(gold.strip())
    if not mark or value is None:
        raise InputError(f"{row.where}: the answer does not end in #### and a number. Mend or remove the row.")
    return Sample(id=content_id("gsm8k", question, str(value)), question=question, gold=str(value))
